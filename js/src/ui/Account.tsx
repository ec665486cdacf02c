import { useSignal } from "@preact/signals";
import { safeLink } from "../links";
import type { Store } from "../store";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { Link } from "./Link";
import { useLanguage } from "./language";

/** Whose token is in use. Python asks the Hub when somebody looks. */
export function Account({ store }: { store: Store }) {
  const { t, said } = useLanguage();
  const { name, lines, url, error, state } = store.account.value;
  const isOpen = useSignal(false);
  const look = () => void store.ask("account", "look_at_account", {});
  const page = safeLink(url);
  return (
    <>
      <Button
        tone="quiet"
        aria-expanded={isOpen.value}
        disabled={store.isOff.value}
        onClick={() => {
          isOpen.value = !isOpen.value;
          if (isOpen.value) {
            look();
          }
        }}
      >
        {t("account")} {name}
      </Button>
      {isOpen.value ? (
        <section class="account" aria-label={t("account")} aria-busy={state === "asking"}>
          {lines.map(({ code, text }) => (
            <p key={code}>{said("notices", code, text, { name })}</p>
          ))}
          {page ? <Link url={page}>{t("tokensPage")}</Link> : null}
          {error ? <ErrorBox error={error} name={t("account")} isOff={store.isOff.value} onRetry={look} /> : null}
        </section>
      ) : null}
    </>
  );
}
