import { useSignal } from "@preact/signals";
import { copy } from "../clipboard";
import { Button } from "./Button";
import { Icon } from "./icons";
import { useLanguage } from "./language";

interface CopyButtonProps {
  /** The accessible name. */
  name: string;
  text: string;
  /** What the button says before it is pressed. */
  label?: string;
}

/** Copies a text, and says for a moment whether that worked. */
export function CopyButton({ name, text, label }: CopyButtonProps) {
  const { t } = useLanguage();
  const outcome = useSignal<"copied" | "copyFailed" | null>(null);
  return (
    <Button
      name={name}
      onClick={async () => {
        outcome.value = (await copy(text)) ? "copied" : "copyFailed";
        setTimeout(() => {
          outcome.value = null;
        }, 2000);
      }}
    >
      <Icon name={outcome.value === "copied" ? "check" : "copy"} />
      {outcome.value ? t(outcome.value) : (label ?? t("copy"))}
    </Button>
  );
}
