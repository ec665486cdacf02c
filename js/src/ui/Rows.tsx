import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import type { ButtonAction } from "../buttons";
import { describeFit, describeFitReason, describeMeasured, describeSpeed } from "../describe";
import { type ActMore, openJob, type Row } from "../row-table";
import type { Store } from "../store";
import type { Language, PlainKey } from "../texts/language";
import { meaningOf } from "../variant-list";
import type {
  ErrorInfo,
  FitEstimate,
  FitVerdict,
  HostsFitView,
  JobView,
  SidecarKind,
  SidecarView,
  VariantRowView,
  VariantState,
} from "../wire";
import { Actions } from "./Actions";
import { Button } from "./Button";
import { CopyButton } from "./CopyButton";
import { ErrorBox } from "./ErrorBox";
import { HostRows } from "./HostRows";
import { Icon, type IconName } from "./icons";
import { JobProgress } from "./JobProgress";
import { LoadOptions } from "./LoadOptions";
import { useLanguage } from "./language";
import { Pill } from "./Pill";
import { Explained } from "./Tip";

const SIDECAR: Record<SidecarKind, PlainKey> = {
  mmproj: "visionProjector",
  drafter: "draftModel",
  imatrix: "importanceMatrix",
  adapter: "adapter",
};

export function sidecarName(kind: SidecarKind, { t }: Language): string {
  return SIDECAR[kind] ? t(SIDECAR[kind]) : kind;
}

const STATE: Record<VariantState, PlainKey | null> = {
  available: null,
  downloaded: "onThisMachine",
  loading: "loadingMore",
  loaded: "loaded",
};

const FIT = {
  fits: ["good", "check"],
  partial: ["fair", "part"],
  too_large: ["bad", "close"],
  unknown: [undefined, "unknown"],
  unusable: ["bad", "warning"],
} as const satisfies Record<FitVerdict, readonly [string | undefined, IconName]>;

interface VariantRowProps {
  store: Store;
  repoId: string;
  variant: VariantRowView;
  /** What goes with all variants, which the list says once. */
  common: SidecarView[];
  /** Another variant of the repository has the same label. */
  isAmbiguous: boolean;
  isRecommended: boolean;
  /** Why it is recommended. */
  reason: string | null;
}

/** One variant of an open repository. Its download, while it is running, paused or failed, says what the row shows. */
export function VariantRow({ store, repoId, variant, common, isAmbiguous, isRecommended, reason }: VariantRowProps) {
  const language = useLanguage();
  const { t, format } = language;
  const { label, quantization, size, fit, state } = variant;
  const row = store.row(repoId, variant.variant_id);
  const job = openJob(row.job.value);
  const isLoad = store.loadKey.value === row.key;
  const status = job ? null : STATE[state];
  const note = isRecommended ? reason : fit?.verdict === "unusable" && describeFitReason(fit, language);
  const tooLarge = fit?.verdict === "too_large" || variant.hosts?.fitting === 0;
  return (
    <RowShell
      store={store}
      row={row}
      name={t("variantOf", { label: rowName(label, variant.variant_id, isAmbiguous), repo: repoId })}
      state={job?.state ?? state}
      actions={job?.actions ?? variant.actions}
      job={job}
      size={size}
      error={job?.error ?? (isLoad ? store.loadError.value : null)}
      downloadTone={isRecommended ? "filled" : tooLarge ? "plain" : undefined}
      title={
        <>
          <Explained text={meaningOf(label, language)}>
            <b>{label}</b>
          </Explained>
          {quantization && quantization !== label ? <span class="muted">{quantization}</span> : null}
        </>
      }
    >
      <span class="size">{format.fileSize(size)}</span>
      {variant.hosts ? <HostsFit hosts={variant.hosts} /> : fit ? <FitPill fit={fit} /> : null}
      {status ? (
        <Pill tone="good">{t(status)}</Pill>
      ) : isRecommended ? (
        <Pill tone="accent" icon="star" title={reason ?? undefined}>
          {t("recommended")}
        </Pill>
      ) : null}
      {variant.filenames.length > 1 ? <span>{t("files", { count: variant.filenames.length })}</span> : null}
      {variant.sidecars.map(({ kind, filename }) =>
        common.some((sidecar) => sidecar.filename === filename) ? null : (
          <span key={filename} title={filename}>
            + {sidecarName(kind, language)}
          </span>
        ),
      )}
      {variant.measured ? (
        <span>{describeMeasured(variant.measured, language)}</span>
      ) : fit && fit.tokens_per_second !== null ? (
        <span>{describeSpeed(fit.tokens_per_second, fit.speed_source, language)}</span>
      ) : null}
      {isAmbiguous ? <span class="code">{variant.variant_id}</span> : null}
      {note ? <span class="muted">{note}</span> : null}
    </RowShell>
  );
}

function FitPill({ fit }: { fit: FitEstimate }) {
  const language = useLanguage();
  const [tone, icon] = FIT[fit.verdict] ?? FIT.unknown;
  return (
    <Pill tone={tone} icon={icon} title={describeFitReason(fit, language)}>
      {describeFit(fit, language)}
    </Pill>
  );
}

/** On how many hosts of a cluster a variant fits, and how it is on the smallest one. */
function HostsFit({ hosts }: { hosts: HostsFitView }) {
  const language = useLanguage();
  const { t, format } = language;
  const { fitting, total, smallest, needed_bytes, free_bytes, problem } = hosts;
  const verdict = fitting === total ? "fits" : fitting > 0 ? "partial" : "too_large";
  const [tone, icon] = FIT[verdict];
  return (
    <>
      <Pill tone={tone} icon={icon} title={problem ? language.error(problem) : undefined}>
        {t("ofHosts", { part: fitting, count: total })}
      </Pill>
      {smallest === null ? null : (
        <span>
          {t("smallestHost", { host: smallest })}
          {problem && needed_bytes !== null && free_bytes !== null
            ? `: ${format.memoryOf(needed_bytes, free_bytes)}`
            : null}
        </span>
      )}
    </>
  );
}

/** Downloads without their cards. */
export function JobRows({ store, rows, isInCard }: { store: Store; rows: Row[]; isInCard?: boolean }) {
  const ambiguous = ambiguousKeys(rows.map(({ key, job, repoId }) => [key, `${job.value?.label} ${repoId}`]));
  return (
    <ul>
      {rows.map((row) => (
        <JobRow key={row.key} store={store} row={row} isAmbiguous={ambiguous.has(row.key)} isInCard={isInCard} />
      ))}
    </ul>
  );
}

/** The keys of those whose names others have too. */
export function ambiguousKeys(names: (readonly [key: string, name: string])[]): Set<string> {
  const counts = new Map<string, number>();
  for (const [, name] of names) {
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return new Set(names.filter(([, name]) => (counts.get(name) ?? 0) > 1).map(([key]) => key));
}

interface JobRowProps {
  store: Store;
  row: Row;
  isAmbiguous: boolean;
  /** The card has the name of the repository. */
  isInCard?: boolean | undefined;
  /** What stands beside the buttons. */
  beside?: (name: string) => ComponentChildren;
}

export function JobRow({ store, row, isAmbiguous, isInCard, beside }: JobRowProps) {
  const { t, format } = useLanguage();
  const job = row.job.value;
  if (!job) {
    return null;
  }
  const label = rowName(job.label, job.variant_id, isAmbiguous);
  const name = t("variantOf", { label, repo: job.repo_id });
  return (
    <RowShell
      store={store}
      row={row}
      name={name}
      beside={beside?.(name)}
      state={job.state}
      actions={job.actions}
      job={openJob(job)}
      size={job.total}
      error={job.error}
      title={<b>{label}</b>}
    >
      {isInCard ? null : <span>{job.repo_id}</span>}
      {job.purpose === "repair" ? <Pill>{t("aRepair")}</Pill> : null}
      {job.finished_at === null ? null : (
        <>
          <span>{format.fileSize(job.total)}</span>
          <span>{format.since(job.finished_at)}</span>
        </>
      )}
    </RowShell>
  );
}

function rowName(label: string, variantId: string, isAmbiguous: boolean): string {
  return isAmbiguous ? `${label} (${variantId})` : label;
}

export interface RowShellProps {
  store: Store;
  row: Row;
  name: string;
  state: string;
  actions: readonly ButtonAction[];
  job: JobView | undefined;
  size: number | null;
  error: ErrorInfo | null;
  downloadTone?: string | undefined;
  more?: ActMore | undefined;
  title: ComponentChildren;
  children: ComponentChildren;
  /** What stands beside the buttons, and below the row. */
  beside?: ComponentChildren;
  below?: ComponentChildren;
}

/** A row of a list: title, facts and buttons; below them what its state adds. */
export function RowShell(props: RowShellProps) {
  const { t } = useLanguage();
  const { store, row, name, state, job, size, downloadTone, more } = props;
  // The order of the queue belongs to its own list.
  const actions = props.actions.filter((action) => action !== "move_up" && action !== "move_down");
  const canLoad = actions.includes("load");
  // A model of the library has texts to copy whatever its state.
  const hasOptions = canLoad || more?.commit_hash;
  const isOpen = useSignal(false);
  const error = row.error.value ?? props.error;
  const hosts = store.cluster.value.pulls[row.job.value?.job_id ?? ""];
  return (
    <li class="row" data-state={state} tabIndex={-1}>
      <div class="line">{props.title}</div>
      <div class="line small facts">{props.children}</div>
      <div class="actions">
        {props.beside}
        {more?.commit_hash && !isOpen.value ? (
          <CopyButton
            tone="quiet square"
            name={t("copyLockEntryFor", { name })}
            isOff={store.isOff.value}
            text={async () => (await store.askPlan(row, more.commit_hash ?? null))?.code?.lock_entry}
          />
        ) : null}
        {hasOptions ? (
          <Button
            tone="quiet square"
            name={t("loadOptionsOf", { name })}
            title={t("loadOptionsOf", { name })}
            aria-expanded={isOpen.value}
            disabled={store.isOff.value}
            onClick={() => {
              isOpen.value = !isOpen.value;
            }}
          >
            <Icon name="tune" />
          </Button>
        ) : null}
        <Actions
          store={store}
          row={row}
          name={name}
          actions={actions}
          size={size}
          downloadTone={downloadTone}
          more={more}
        />
      </div>
      {hasOptions && isOpen.value ? (
        <LoadOptions store={store} row={row} name={name} commitHash={more?.commit_hash} canLoad={canLoad} />
      ) : null}
      {props.below}
      {job ? <JobProgress job={job} name={name} /> : null}
      {hosts ? <HostRows hosts={hosts} name={name} /> : null}
      {row.asked.value?.isWaiting.value ? <p class="fair">{t("waitingForCell")}</p> : null}
      {error ? (
        <ErrorBox
          error={error}
          name={name}
          onDismiss={
            error === row.error.value || error === store.loadError.value ? () => store.dismissError(row) : undefined
          }
        />
      ) : null}
    </li>
  );
}
