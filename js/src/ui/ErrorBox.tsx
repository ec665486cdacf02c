import type { ComponentChildren } from "preact";
import { safeLink } from "../links";
import type { Language } from "../texts/language";
import type { ErrorInfo } from "../wire";
import { Button } from "./Button";
import { Icon } from "./icons";
import { Link } from "./Link";
import { useLanguage } from "./language";

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
  const language = useLanguage();
  const { t } = language;
  const { message, code } = error;
  const said = language.error(error);
  const details = error.details ?? {};
  const url = safeLink(details.url);
  return (
    <div class="error" data-tone="bad" role="alert" data-code={code}>
      <Icon name="warning" />
      <div class="grow">
        <p>
          {said} {url ? <Link url={url}>{t(code === "gated" ? "licencePage" : "more")}</Link> : null}
        </p>
        {more(details, language)}
        {said === message ? null : (
          <details class="small">
            <summary>{t("originalMessage")}</summary>
            <p lang="en">{message}</p>
          </details>
        )}
      </div>
      {onRetry ? (
        <Button name={`${t("retry")} ${name}`} disabled={isOff} onClick={onRetry}>
          {t("retry")}
        </Button>
      ) : null}
      {onDismiss ? (
        <Button tone="quiet square" name={t("dismissErrorOf", { name })} onClick={onDismiss}>
          <Icon name="close" />
        </Button>
      ) : null}
    </div>
  );
}

/** What some errors carry beside their message. */
function more({ choices, needed_bytes, free_bytes }: ErrorInfo["details"], { t, format }: Language): ComponentChildren {
  if (Array.isArray(choices)) {
    return <p>{t("choices", { choices: choices.join(", ") })}</p>;
  }
  if (typeof needed_bytes === "number" && typeof free_bytes === "number") {
    return <p>{t("neededFree", { needed: format.fileSize(needed_bytes), free: format.fileSize(free_bytes) })}</p>;
  }
  return null;
}
