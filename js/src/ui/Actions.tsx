import { useSignal } from "@preact/signals";
import { BUTTONS, type ButtonAction } from "../buttons";
import type { ActMore, Row } from "../row-table";
import type { Store } from "../store";
import { Button } from "./Button";
import { Icon } from "./icons";
import { useLanguage } from "./language";

interface ActionsProps {
  store: Store;
  row: Row;
  /** The variant in the buttons' accessible names: "Q4_K_M of OWNER/NAME". */
  name: string;
  actions: readonly ButtonAction[];
  size?: number | null;
  /** How the Download button looks. */
  downloadTone?: string | undefined;
  more?: ActMore | undefined;
}

/** The buttons of a row, which change with its state. */
export function Actions({ store, row, name, actions, size = null, downloadTone, more }: ActionsProps) {
  const { t } = useLanguage();
  /** `null` until Remove is pressed for the first time. */
  const isConfirming = useSignal<boolean | null>(null);
  const asked = row.asked.value?.what;
  return (
    <div class="actions">
      {isConfirming.value && actions.includes("remove") ? (
        <Confirmation
          name={name}
          size={size}
          onAnswer={(isSure) => {
            isConfirming.value = false;
            if (isSure) {
              store.act(row, "remove", more);
            }
          }}
        />
      ) : (
        actions.map((action) => (
          <Button
            key={action}
            tone={(action === "download" && downloadTone) || BUTTONS[action].tone}
            name={`${t(BUTTONS[action].text)} ${name}`}
            aria-disabled={asked === action}
            // After "Keep" the focus goes back to where it came from.
            data-first={action === "remove" && isConfirming.value === false ? "" : undefined}
            disabled={store.isOff.value}
            onClick={({ detail }) => {
              // The second click of a double click was meant for the button that was here before, not for a Cancel in its place.
              if (detail > 1) {
                return;
              }
              if (action === "remove") {
                isConfirming.value = true;
              } else if (asked !== action) {
                store.act(row, action, more);
              }
            }}
          >
            {action === "dismiss" ? <Icon name="close" /> : t(BUTTONS[action].text)}
          </Button>
        ))
      )}
    </div>
  );
}

interface ConfirmationProps {
  name: string;
  size: number | null;
  onAnswer: (isSure: boolean) => void;
}

/** Removing asks once more, in place. "Keep" stands where "Remove" stood, so that a double click removes nothing. */
export function Confirmation({ name, size, onAnswer }: ConfirmationProps) {
  const { t, format } = useLanguage();
  const text = size === null ? t("reallyRemove") : t("reallyRemoveSize", { size: format.fileSize(size) });
  return (
    <fieldset
      class="actions"
      aria-label={t("removeQuestion", { name })}
      onKeyDown={(event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          onAnswer(false);
        }
      }}
    >
      <Button
        tone="danger"
        data-tone="bad"
        name={`${t("reallyRemove")} ${name}`.trim()}
        title={text} // a description, for those who hear the name
        onClick={() => onAnswer(true)}
      >
        {text}
      </Button>
      <Button data-first name={`${t("keep")} ${name}`.trim()} onClick={() => onAnswer(false)}>
        {t("keep")}
      </Button>
    </fieldset>
  );
}
