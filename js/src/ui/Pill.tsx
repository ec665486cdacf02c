import type { ComponentChildren } from "preact";
import { Icon, type IconName } from "./icons";

interface PillProps {
  tone?: "accent" | "good" | "fair" | "bad" | undefined;
  icon?: IconName;
  title?: string | undefined;
  children: ComponentChildren;
}

/** A short statement about a thing: "gated", "Loaded", "fits: …". */
export function Pill({ tone, icon, title, children }: PillProps) {
  return (
    <span class="pill" data-tone={tone} title={title}>
      {icon ? <Icon name={icon} /> : null}
      {children}
    </span>
  );
}
