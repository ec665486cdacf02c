import { useSignal } from "@preact/signals";
import { Confirmation } from "./Actions";
import { Button } from "./Button";

interface ConfirmProps {
  /** The button. */
  text: string;
  /** What is removed, in the accessible names. */
  name?: string;
  /** The bytes that come free. */
  size: number;
  isOff: boolean;
  onSure: () => void;
}

/** A button that removes several things, and asks once more in its place. */
export function Confirm({ text, name = "", size, isOff, onSure }: ConfirmProps) {
  /** What is asked: that which was shown when the button was pressed, whatever is shown by now. */
  const asked = useSignal<{ size: number; onSure: () => void } | null>(null);
  return asked.value ? (
    <Confirmation
      name={name}
      size={asked.value.size}
      onAnswer={(isSure) => {
        if (isSure) {
          asked.value?.onSure();
        }
        asked.value = null;
      }}
    />
  ) : (
    <Button
      name={`${text} ${name}`.trim()}
      disabled={isOff}
      onClick={() => {
        asked.value = { size, onSure };
      }}
    >
      {text}
    </Button>
  );
}
