import { useSignal } from "@preact/signals";
import { copy } from "../clipboard";
import type { CodeView } from "../wire";
import { Button } from "./Button";
import { Icon } from "./icons";
import { useLanguage } from "./language";

interface CopyButtonProps {
  /** The accessible name. */
  name: string;
  /** What is copied, or how to get it. */
  text: string | (() => Promise<string | null | undefined>);
  /** What the button says before it is pressed. */
  label?: string;
  /** The look of a button that is only an icon. */
  tone?: string;
  isOff?: boolean;
}

/** Copies a text, and says for a moment whether that worked. */
export function CopyButton({ name, text, label, tone, isOff }: CopyButtonProps) {
  const { t } = useLanguage();
  const outcome = useSignal<"copied" | "copyFailed" | null>(null);
  const said = outcome.value && t(outcome.value);
  return (
    <>
      <Button
        name={name}
        tone={tone}
        title={tone && name}
        disabled={isOff}
        onClick={async () => {
          outcome.value = (await copy(typeof text === "string" ? text : text())) ? "copied" : "copyFailed";
          setTimeout(() => {
            outcome.value = null;
          }, 2000);
        }}
      >
        <Icon name={outcome.value ? (outcome.value === "copied" ? "check" : "warning") : "copy"} />
        {tone ? null : (said ?? label ?? t("copy"))}
      </Button>
      <span class="hidden" role="status">
        {said}
      </span>
    </>
  );
}

/** Texts that repeat a load elsewhere. */
export function CopyCode({ name, code, hasLock = true }: { name: string; code: CodeView; hasLock?: boolean }) {
  const { t } = useLanguage();
  return (
    <div class="line wide">
      <CopyButton name={t("copyCodeFor", { name })} label={t("copyCodeShort")} text={code.modeldeck} />
      <CopyButton name={t("copyPlainCodeFor", { name })} label={t("copyPlainCode")} text={code.llama_cpp} />
      {code.lock_entry && hasLock ? (
        <CopyButton name={t("copyLockEntryFor", { name })} label={t("copyLockEntry")} text={code.lock_entry} />
      ) : null}
    </div>
  );
}
