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
  const isAsking = useSignal(false);
  const answer = (isSure: boolean) => {
    isAsking.value = false;
    if (isSure) {
      onSure();
    }
  };
  return isAsking.value ? (
    <Confirmation name={name} size={size} onAnswer={answer} />
  ) : (
    <Button
      name={`${text} ${name}`.trim()}
      disabled={isOff}
      onClick={() => {
        isAsking.value = true;
      }}
    >
      {text}
    </Button>
  );
}
