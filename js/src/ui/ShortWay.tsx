import { BUTTONS, type ButtonAction } from "../buttons";
import { openJob } from "../row-table";
import type { Store } from "../store";
import type { VariantAction } from "../wire";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { useLanguage } from "./language";

/** The card's own button: get the recommended variant; load or unload it once it is here. */
export function ShortWay({ store, repoId }: { store: Store; repoId: string }) {
  const { t, format } = useLanguage();
  const pick = store.pick(repoId).value;
  if (!pick) {
    return null;
  }
  const row = store.row(repoId, pick.variant_id);
  const [action] = pick.actions;
  // A download has a row of its own, and the rows of an unfolded card have the other buttons.
  if (!action || openJob(row.job.value) || (action !== "download" && store.isUnfolded(repoId))) {
    return null;
  }
  const look: ButtonAction = action === "download" ? "get" : action;
  const sent: VariantAction = action === "download" && store.loadWhenReady.value ? "get" : action;
  const size = action === "download" ? format.fileSize(pick.size) : "";
  const isAsked = row.asked.value !== null;
  return (
    <Button
      tone={`${BUTTONS[look].tone ?? ""} short`}
      title={size || undefined}
      aria-disabled={isAsked}
      disabled={store.isOff.value}
      onClick={({ detail }) => {
        if (detail <= 1 && !isAsked) {
          store.act(row, sent);
        }
      }}
    >
      <span>
        {t(BUTTONS[look].text)} {pick.label}
        <span class="hidden"> {t("ofRepo", { repo: repoId })}</span>
      </span>
      {size ? <span aria-hidden="true">{size}</span> : null}
    </Button>
  );
}

/** Why the request of the card's button was refused. An unfolded card shows it in its row. */
export function PickError({ store, repoId }: { store: Store; repoId: string }) {
  const row = store.refusedRow(repoId);
  return row?.error.value ? (
    <div class="files">
      <ErrorBox error={row.error.value} name={repoId} onDismiss={() => store.dismissError(row)} />
    </div>
  ) : null;
}
