import type { ComponentChildren } from "preact";
import { Icon } from "./icons";

/** A link that leaves the notebook. */
export function Link({ url, children }: { url: string; children: ComponentChildren }) {
  return (
    <a href={url} target="_blank" rel="noopener noreferrer">
      {children}
      <Icon name="external" />
      <span class="hidden"> (opens in a new tab)</span>
    </a>
  );
}
