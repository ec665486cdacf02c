import type { ButtonHTMLAttributes, ComponentChildren } from "preact";

interface ButtonProps extends Omit<ButtonHTMLAttributes<HTMLButtonElement>, "name"> {
  /** Accessible name, where the text alone does not say enough. */
  name?: string;
  tone?: string | undefined;
  children: ComponentChildren;
}

export function Button({ name, tone = "", children, ...rest }: ButtonProps) {
  return (
    <button type="button" class={`button ${tone}`} aria-label={name} {...rest}>
      {children}
    </button>
  );
}
