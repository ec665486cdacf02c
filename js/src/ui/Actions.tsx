import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { fileSize } from "../format";
import type { Row, Store } from "../store";
import type { Action } from "../wire";
import { Icon } from "./icons";

const TEXT: Record<Action, string> = {
  download: "Download",
  pause: "Pause",
  resume: "Resume",
  cancel: "Cancel",
  retry: "Retry",
  dismiss: "Dismiss",
  load: "Load",
  unload: "Unload",
  remove: "Remove",
  cancel_load: "Cancel",
};

const TONE: Partial<Record<Action, string>> = {
  download: "tonal",
  resume: "tonal",
  retry: "tonal",
  load: "filled",
};

interface ActionsProps {
  store: Store;
  row: Row;
  /** The variant in the buttons' accessible names: "Q4_K_M of OWNER/NAME". */
  name: string;
  actions: readonly Action[];
  size: number | null;
}

/** The buttons of a row. They change with its state; the focus stays among them. */
export function Actions({ store, row, name, actions, size }: ActionsProps) {
  const isConfirming = useSignal(false);
  const group = useRef<HTMLDivElement>(null);
  const hadFocus = useRef(false);
  const asked = row.asked.value;
  const isOff = !store.isUsable.value;
  const shape = actions.join() + isConfirming.value;

  useLayoutEffect(() => {
    const root = group.current?.getRootNode() as ShadowRoot | Document | undefined;
    if (!group.current || !hadFocus.current || root?.activeElement) {
      return;
    }
    const button = group.current.querySelector<HTMLButtonElement>("button[data-first], button:not([disabled])");
    (button ?? group.current.closest<HTMLElement>("[tabindex='-1']"))?.focus({ preventScroll: true });
  }, [shape]);

  const confirm = (isOpen: boolean) => {
    isConfirming.value = isOpen;
  };

  return (
    <div
      class="actions"
      ref={group}
      onFocusCapture={() => {
        hadFocus.current = true;
      }}
      onBlurCapture={(event) => {
        // A button that is taken away loses the focus without a successor: that is not leaving.
        if (event.relatedTarget instanceof Element && !group.current?.contains(event.relatedTarget)) {
          hadFocus.current = false;
        }
      }}
    >
      {isConfirming.value && actions.includes("remove") ? (
        <Confirmation
          name={name}
          size={size}
          onConfirm={() => {
            confirm(false);
            store.act(row, "remove");
          }}
          onKeep={() => confirm(false)}
        />
      ) : (
        actions.map((action) => (
          <button
            key={action}
            type="button"
            class={action === "dismiss" ? "button quiet square" : `button ${TONE[action] ?? ""}`}
            aria-label={`${TEXT[action]} ${name}`}
            aria-disabled={asked?.what === action}
            data-action={action}
            disabled={isOff}
            onClick={() => {
              if (action === "remove") {
                confirm(true);
              } else if (asked?.what !== action) {
                store.act(row, action);
              }
            }}
          >
            {action === "dismiss" ? <Icon name="close" /> : TEXT[action]}
          </button>
        ))
      )}
    </div>
  );
}

interface ConfirmationProps {
  name: string;
  size: number | null;
  onConfirm: () => void;
  onKeep: () => void;
}

/** Removing asks once more, in place. "Keep" stands where "Remove" stood, so that a double click removes nothing. */
function Confirmation({ name, size, onConfirm, onKeep }: ConfirmationProps) {
  return (
    <fieldset
      class="confirm"
      onKeyDown={(event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          onKeep();
        }
      }}
    >
      <legend class="hidden">Remove {name} from the cache?</legend>
      <button
        type="button"
        class="button danger"
        data-tone="bad"
        aria-label={`Really remove ${name}`}
        onClick={onConfirm}
      >
        Really remove{size === null ? "" : ` ${fileSize(size)}`}
      </button>
      <button type="button" class="button" data-first aria-label={`Keep ${name}`} onClick={onKeep}>
        Keep
      </button>
    </fieldset>
  );
}
