import type { ComponentChildren } from "preact";
import { fileSize } from "../format";
import { safeLink } from "../links";
import type { ErrorInfo } from "../wire";
import { Icon } from "./icons";

interface ErrorBoxProps {
  error: ErrorInfo;
  /** Buttons that lead on, such as Retry. */
  children?: ComponentChildren;
  onDismiss?: (() => void) | undefined;
  /** Accessible name of the dismiss button. */
  dismissLabel?: string;
}

/** An error where it happened: what it is, what to do next, and where. It stays until somebody acts. */
export function ErrorBox({ error, children, onDismiss, dismissLabel = "Dismiss" }: ErrorBoxProps) {
  const url = safeLink(error.details?.url);
  const choices = Array.isArray(error.details?.choices) ? error.details.choices.map(String) : [];
  const { needed_bytes, free_bytes } = error.details ?? {};
  return (
    <div class="error" data-tone="bad" role="alert" data-code={error.code}>
      <Icon name="warning" />
      <div class="error-text">
        <p>{error.message}</p>
        {typeof needed_bytes === "number" && typeof free_bytes === "number" ? (
          <p>
            Needed: {fileSize(needed_bytes)}, free: {fileSize(free_bytes)}
          </p>
        ) : null}
        {choices.length > 0 ? <p>Choices: {choices.join(", ")}</p> : null}
        {url ? (
          <a href={url} target="_blank" rel="noopener noreferrer">
            {error.code === "gated" ? "Open the licence page" : "Open the page"}
            <Icon name="external" />
            <span class="hidden"> (opens in a new tab)</span>
          </a>
        ) : null}
      </div>
      {children}
      {onDismiss ? (
        <button type="button" class="button quiet square" aria-label={dismissLabel} onClick={onDismiss}>
          <Icon name="close" />
        </button>
      ) : null}
    </div>
  );
}
