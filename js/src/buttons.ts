// The buttons of a row, by the action that each asks Python for. Python decides which ones a row has.

import type { PlainKey } from "./texts/language";
import type { Action, VariantAction } from "./wire";

export type ButtonAction = Action | VariantAction;

interface ButtonLook {
  text: PlainKey;
  tone?: string;
}

const OF_DOWNLOAD: Record<Action, ButtonLook> = {
  move_up: { text: "moveUp", tone: "quiet square" },
  move_down: { text: "moveDown", tone: "quiet square" },
  pause: { text: "pause" },
  resume: { text: "resume", tone: "tonal" },
  cancel: { text: "cancel" },
  retry: { text: "retry", tone: "tonal" },
  dismiss: { text: "dismiss", tone: "quiet square" },
};

const OF_VARIANT: Record<VariantAction, ButtonLook> = {
  download: { text: "download", tone: "tonal" },
  get: { text: "get", tone: "filled" },
  load: { text: "load", tone: "filled" },
  cancel_load: { text: "cancel" },
  unload: { text: "unload" },
  verify: { text: "verify" },
  cancel_verify: { text: "cancel" },
  repair: { text: "repair", tone: "tonal" },
  remove: { text: "remove" },
};

export const BUTTONS: Record<ButtonAction, ButtonLook> = { ...OF_DOWNLOAD, ...OF_VARIANT };

/** Whether an action is one of a download; the others are of a variant. */
export function isOfDownload(action: ButtonAction): action is Action {
  return action in OF_DOWNLOAD;
}
