import type { ComponentChildren } from "preact";
import { fileSize } from "../format";
import { safeLink } from "../links";
import type { ErrorInfo } from "../wire";
import { Button } from "./Button";
import { Icon } from "./icons";
import { Link } from "./Link";

interface ErrorBoxProps {
  error: ErrorInfo;
  /** What failed, in the names of the buttons. */
  name: string;
  onRetry?: (() => void) | undefined;
  onDismiss?: (() => void) | undefined;
  isOff?: boolean;
}

/** An error where it happened: what it is, what to do next, and where. It stays until somebody acts. */
export function ErrorBox({ error, name, onRetry, onDismiss, isOff }: ErrorBoxProps) {
  const { message, code } = error;
  const details = error.details ?? {};
  const url = safeLink(details.url);
  return (
    <div class="error" data-tone="bad" role="alert" data-code={code}>
      <Icon name="warning" />
      <div class="grow">
        <p>
          {message} {url ? <Link url={url}>{code === "gated" ? "Licence page" : "More"}</Link> : null}
        </p>
        {more(details)}
      </div>
      {onRetry ? (
        <Button name={`Retry ${name}`} disabled={isOff} onClick={onRetry}>
          Retry
        </Button>
      ) : null}
      {onDismiss ? (
        <Button tone="quiet square" name={`Dismiss the error of ${name}`} onClick={onDismiss}>
          <Icon name="close" />
        </Button>
      ) : null}
    </div>
  );
}

/** What some errors carry beside their message. */
function more({ choices, needed_bytes, free_bytes }: ErrorInfo["details"]): ComponentChildren {
  if (Array.isArray(choices)) {
    return <p>Choices: {choices.join(", ")}</p>;
  }
  if (typeof needed_bytes === "number" && typeof free_bytes === "number") {
    return (
      <p>
        Needed: {fileSize(needed_bytes)}, free: {fileSize(free_bytes)}
      </p>
    );
  }
  return null;
}
