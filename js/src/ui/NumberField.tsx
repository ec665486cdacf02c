import { useTyped } from "./typed";

interface NumberFieldProps {
  text: string;
  min: number;
  max?: number | undefined;
  step?: number | "any";
  placeholder?: string;
  required?: boolean;
  disabled?: boolean;
  value: number | null;
  /** Called with the number, or `null` for an empty field, when it is one that the field allows. */
  onValue: (value: number | null) => void;
}

/** A number with its name before it. */
export function NumberField({ text, value, onValue, ...rest }: NumberFieldProps) {
  return (
    <label>
      <span>{text}</span>
      <input
        type="number"
        aria-label={text}
        ref={useTyped(value)}
        onChange={({ currentTarget }) => {
          if (currentTarget.reportValidity()) {
            onValue(currentTarget.value === "" ? null : currentTarget.valueAsNumber);
          }
        }}
        {...rest}
      />
    </label>
  );
}
