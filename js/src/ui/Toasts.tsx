import { type Signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { describeToast } from "../describe";
import type { Store } from "../store";
import type { Toast } from "../toast-list";
import { Button } from "./Button";
import { Icon } from "./icons";
import { useLanguage } from "./language";

const SHOWN_MS = 6000;
const SHOWN_ERROR_MS = 12_000;

const LEVEL = {
  success: ["good", "check"],
  info: [undefined, "info"],
  error: ["bad", "warning"],
} as const;

/** Milestones, announced politely. They disappear after some seconds, but not while they have the pointer or the focus. */
export function Toasts({ store }: { store: Store }) {
  const isHeld = useSignal(false);
  const hold = () => {
    isHeld.value = true;
  };
  const release = () => {
    isHeld.value = false;
  };
  return (
    <div
      class="toasts"
      role="status"
      onPointerEnter={hold}
      onPointerLeave={release}
      onFocusIn={hold}
      onFocusOut={release}
    >
      {store.toasts.shown.value.map((toast) => (
        <ToastItem key={toast.id} store={store} toast={toast} isHeld={isHeld} />
      ))}
    </div>
  );
}

function ToastItem({ store, toast, isHeld }: { store: Store; toast: Toast; isHeld: Signal<boolean> }) {
  const language = useLanguage();
  const { t } = language;
  const { id, count, level } = toast;
  const isPaused = isHeld.value;
  // A toast that is repeated stays for its full time again.
  useEffect(() => {
    if (isPaused) {
      return;
    }
    const timer = setTimeout(() => store.toasts.dismiss(id), level === "error" ? SHOWN_ERROR_MS : SHOWN_MS);
    return () => clearTimeout(timer);
  }, [store, id, level, count, isPaused]);
  const [tone, icon] = LEVEL[level] ?? LEVEL.info;
  return (
    <div class="toast" data-level={level}>
      <span data-tone={tone}>
        <Icon name={icon} />
      </span>
      <span class="grow">
        {describeToast(toast, language)}
        {count > 1 ? ` ${t("times", { count })}` : null}
      </span>
      <Button tone="quiet square" name={t("close")} onClick={() => store.toasts.dismiss(id)}>
        <Icon name="close" />
      </Button>
    </div>
  );
}
