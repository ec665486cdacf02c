import { useSignal } from "@preact/signals";
import { describeMeasured } from "../describe";
import { chooseModels, freedBytes, type LibrarySort, modelKey } from "../library";
import { openJob } from "../row-table";
import type { Store } from "../store";
import type { Language, PlainKey } from "../texts/language";
import type { LeftoverView, LibraryRowView } from "../wire";
import { Button } from "./Button";
import { Confirm } from "./Confirm";
import { Icon, type IconName } from "./icons";
import { LoadPanel } from "./LoadPanel";
import { useLanguage } from "./language";
import { Pill } from "./Pill";
import { Progress } from "./Progress";
import { ambiguousKeys, RowShell } from "./Rows";
import { TabPanel } from "./Tabs";

const SORTS: [LibrarySort, PlainKey][] = [
  ["used", "sortUsed"],
  ["size", "sortSize"],
  ["name", "sortName"],
];

const LEFTOVER: Record<LeftoverView["kind"], PlainKey> = {
  partial: "leftPartial",
  incomplete: "leftIncomplete",
  unlinked: "leftUnlinked",
  fragment: "leftFragment",
};

/** What is on this machine, whoever put it there. */
export function Library({ store }: { store: Store }) {
  const { t, format } = useLanguage();
  const text = useSignal("");
  const sort = useSignal<LibrarySort>("used");
  const isOff = store.isOff.value;
  const { models, leftovers, free_bytes, total_bytes, is_known } = store.library.value;
  const shown = chooseModels(models, text.value, sort.value);
  const unproven = shown.filter(({ proof, check, actions }) => !proof && !check && actions.includes("verify"));
  const damaged = shown.filter(({ check, actions }) => !check && actions.includes("repair"));
  const removable = shown.filter(({ actions }) => actions.includes("remove"));
  const count = ({ length }: LibraryRowView[]) => ({ models: t("models", { count: length }) });
  const bar = (
    <div class="search line">
      <div class="field">
        <Icon name="search" />
        <input
          type="search"
          aria-label={t("searchLibrary")}
          placeholder={t("searchLibrary")}
          autocomplete="off"
          spellcheck={false}
          value={text}
          onInput={(event) => {
            text.value = event.currentTarget.value;
          }}
        />
      </div>
      <label>
        <span>{t("sort")}</span>
        <select
          aria-label={t("sortBy")}
          value={sort}
          onChange={(event) => {
            sort.value = event.currentTarget.value as LibrarySort;
          }}
        >
          {SORTS.map(([key, name]) => (
            <option key={key} value={key}>
              {t(name)}
            </option>
          ))}
        </select>
      </label>
      {unproven.length > 0 ? (
        <Button disabled={isOff} onClick={() => store.keep("verify", unproven)}>
          {t("verifyAll", count(unproven))}
        </Button>
      ) : null}
      {damaged.length > 0 ? (
        <Button tone="tonal" disabled={isOff} onClick={() => store.keep("repair", damaged)}>
          {t("repairAll", count(damaged))}
        </Button>
      ) : null}
      {removable.length > 1 ? (
        <Confirm
          text={t("removeAll", count(removable))}
          size={freedBytes(removable)}
          isOff={isOff}
          onSure={() => store.keep("remove", removable)}
        />
      ) : null}
    </div>
  );
  return (
    <TabPanel name="library" bar={bar}>
      <LoadPanel store={store} />
      <p class="note small line" aria-live="polite">
        <span>{is_known ? t("models", { count: shown.length }) : t("searching")}</span>
        <span>{format.fileSize(freedBytes(shown, true))}</span>
        {free_bytes === null ? null : (
          <span>{t("memoryFree", { memory: format.received(free_bytes, total_bytes) })}</span>
        )}
      </p>
      <LibraryRows store={store} models={shown} />
      {leftovers.length > 0 ? <Leftovers store={store} leftovers={leftovers} isOff={isOff} /> : null}
    </TabPanel>
  );
}

/** Models of the cache, to load, verify, repair or remove. */
export function LibraryRows({ store, models }: { store: Store; models: LibraryRowView[] }) {
  const { t } = useLanguage();
  const keys = new Map(models.map((model) => [model, Object.values(modelKey(model)).join("\n")]));
  const ambiguous = ambiguousKeys(models.map((model) => [keys.get(model) ?? "", `${model.label} ${model.repo_id}`]));
  return (
    <ul class="library named" aria-label={t("library")}>
      {models.map((model) => {
        const key = keys.get(model) ?? "";
        return <LibraryRow key={key} store={store} model={model} isAmbiguous={ambiguous.has(key)} />;
      })}
    </ul>
  );
}

interface LibraryRowProps {
  store: Store;
  model: LibraryRowView;
  isAmbiguous: boolean;
}

function LibraryRow({ store, model, isAmbiguous }: LibraryRowProps) {
  const language = useLanguage();
  const { t, format } = language;
  const { label, repo_id, variant_id, commit_hash, check, state } = model;
  const row = store.row(repo_id, variant_id);
  const commit = commit_hash.slice(0, 7);
  const shownLabel = isAmbiguous ? `${label} (${variant_id}, ${commit})` : label;
  const name = t("variantOf", { label: shownLabel, repo: repo_id });
  const job = openJob(row.job.value);
  const repair = job?.purpose === "repair" ? job : undefined;
  const slash = repo_id.indexOf("/") + 1;
  return (
    <RowShell
      store={store}
      row={row}
      name={name}
      state={state}
      actions={repair && check?.is_repair ? repair.actions : model.actions}
      job={repair}
      size={freedBytes([model])}
      error={model.error ?? (store.loadKey.value === row.key ? store.loadError.value : null)}
      more={{ commit_hash }}
      title={
        <span>
          <b>{shownLabel}</b> <span class="owner">{repo_id.slice(0, slash)}</span>
          {repo_id.slice(slash)}
        </span>
      }
      below={
        check && !repair ? (
          <div>
            <Progress
              label={t("verifyingOf", { name })}
              percent={check.fraction === null ? null : Math.floor(check.fraction * 100)}
              text={t(check.fraction === null ? "waiting" : "checking")}
            />
            <p class="small">{t(check.fraction === null ? "waiting" : "checking")}</p>
          </div>
        ) : null
      }
    >
      <span class="size">{format.fileSize(model.size)}</span>
      {state === "loaded" ? <Pill tone="good">{t("loaded")}</Pill> : null}
      <Proof model={model} language={language} />
      {model.last_used === null ? null : <span>{t("usedAgo", { ago: format.since(model.last_used) })}</span>}
      {model.filenames.length > 1 ? <span>{t("files", { count: model.filenames.length })}</span> : null}
      {model.own_filenames.length > 0 ? <span title={model.own_filenames.join(", ")}>{t("ownFiles")}</span> : null}
      {model.measured ? <span>{describeMeasured(model.measured, language)}</span> : null}
    </RowShell>
  );
}

const PROVEN = { download: "verifiedByDownload", repair: "verifiedAgo", verify: "verifiedAgo" } as const;

/** Whether the files are what the Hub has, since when and by what. */
function Proof({ model: { proof, blobs }, language }: { model: LibraryRowView; language: Language }) {
  const { t, format } = language;
  if (blobs.length === 0) {
    return null;
  }
  const [tone, icon, text]: ["good" | "fair" | "bad", IconName, string] =
    proof === null
      ? ["fair", "unknown", t("unverified")]
      : proof.is_valid
        ? ["good", "check", t(PROVEN[proof.by], { ago: format.since(proof.at) })]
        : ["bad", "warning", t("damaged")];
  return (
    <Pill tone={tone} icon={icon}>
      {text}
    </Pill>
  );
}

/** What takes room and is of no use as it is. */
function Leftovers({ store, leftovers, isOff }: { store: Store; leftovers: LeftoverView[]; isOff: boolean }) {
  const { t, format } = useLanguage();
  const removable = leftovers.filter(({ is_in_use }) => !is_in_use);
  const bytesOf = (chosen: LeftoverView[]) => chosen.reduce((sum, { size }) => sum + size, 0);
  return (
    <details class="panel">
      <summary>{t("leftovers", { count: leftovers.length, size: format.fileSize(bytesOf(leftovers)) })}</summary>
      {removable.length > 0 ? (
        <Confirm
          text={t("removeLeftovers")}
          size={bytesOf(removable)}
          isOff={isOff}
          onSure={() => store.keep("remove_leftovers", [], removable)}
        />
      ) : null}
      <ul class="named">
        {leftovers.map((leftover) => (
          <li class="row" key={leftover.leftover_id} tabIndex={-1}>
            <span class="code">{leftover.name}</span>
            <span class="line small facts">
              <span class="size">{format.fileSize(leftover.size)}</span>
              <span>{leftover.repo_id}</span>
              <span>{t(LEFTOVER[leftover.kind])}</span>
              <span>{format.since(leftover.modified_at)}</span>
            </span>
            {leftover.is_in_use ? (
              <span class="small">{t("inUse")}</span>
            ) : (
              <Confirm
                text={t("remove")}
                name={leftover.name}
                size={leftover.size}
                isOff={isOff}
                onSure={() => store.keep("remove_leftovers", [], [leftover])}
              />
            )}
          </li>
        ))}
      </ul>
    </details>
  );
}
