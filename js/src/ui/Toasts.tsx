import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Store, Toast } from "../store";
import { Icon, type IconName } from "./icons";

const SHOWN_MS = { success: 6000, info: 6000, error: 12_000 } as const;
const TONE = { success: "good", info: undefined, error: "bad" } as const;
const ICON: Record<Toast["level"], IconName> = { success: "check", info: "info", error: "warning" };

/** Milestones, announced politely. They leave by themselves, but not while somebody points at them or is in them. */
export function Toasts({ store }: { store: Store }) {
  const isHeld = useSignal(false);
  return (
    <div
      class="toasts"
      role="status"
      aria-live="polite"
      onPointerEnter={() => {
        isHeld.value = true;
      }}
      onPointerLeave={() => {
        isHeld.value = false;
      }}
      onFocusCapture={() => {
        isHeld.value = true;
      }}
      onBlurCapture={() => {
        isHeld.value = false;
      }}
    >
      {store.toasts.value.map((toast) => (
        <ToastItem key={toast.id} store={store} toast={toast} isHeld={isHeld.value} />
      ))}
    </div>
  );
}

function ToastItem({ store, toast, isHeld }: { store: Store; toast: Toast; isHeld: boolean }) {
  const { id, count, level } = toast;
  useEffect(() => {
    if (isHeld) {
      return;
    }
    const timer = setTimeout(() => store.dismissToast(id), SHOWN_MS[level]);
    return () => clearTimeout(timer);
  }, [store, id, level, count, isHeld]);
  return (
    <div class="toast" data-level={level}>
      <span data-tone={TONE[level]}>
        <Icon name={ICON[level] ?? "info"} />
      </span>
      <span>
        {toast.message}
        {count > 1 ? ` (${count} times)` : ""}
      </span>
      <button type="button" class="button quiet square" aria-label="Close" onClick={() => store.dismissToast(id)}>
        <Icon name="close" />
      </button>
    </div>
  );
}
