// The buttons of a row, by the action that each asks Python for. Python decides which ones a row has.

import type { Action, VariantAction } from "./wire";

export type ButtonAction = Action | VariantAction;

interface ButtonLook {
  text: string;
  tone?: string;
}

const OF_DOWNLOAD: Record<Action, ButtonLook> = {
  pause: { text: "Pause" },
  resume: { text: "Resume", tone: "tonal" },
  cancel: { text: "Cancel" },
  retry: { text: "Retry", tone: "tonal" },
  dismiss: { text: "Dismiss", tone: "quiet square" },
};

const OF_VARIANT: Record<VariantAction, ButtonLook> = {
  download: { text: "Download", tone: "tonal" },
  get: { text: "Get", tone: "filled" },
  load: { text: "Load", tone: "filled" },
  cancel_load: { text: "Cancel" },
  unload: { text: "Unload" },
  remove: { text: "Remove" },
};

export const BUTTONS: Record<ButtonAction, ButtonLook> = { ...OF_DOWNLOAD, ...OF_VARIANT };

/** Whether an action is one of a download; the others are of a variant. */
export function isOfDownload(action: ButtonAction): action is Action {
  return action in OF_DOWNLOAD;
}
