import { useLayoutEffect, useRef } from "preact/hooks";

/** For a field that is read when it is left. It shows the value, and what is typed stays when the page is drawn again. */
export function useTyped(value: string | number | null) {
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    if (field.current) {
      field.current.value = `${value ?? ""}`;
    }
  }, [value]);
  return field;
}
