import { describeFit } from "../describe";
import { fileSize } from "../format";
import { openJob, type Row, type Store } from "../store";
import type { Action, ErrorInfo, FitVerdict, Job, Sidecar, Variant } from "../wire";
import { Actions } from "./Actions";
import { ErrorBox } from "./ErrorBox";
import { Icon, type IconName } from "./icons";
import { JobProgress } from "./JobProgress";

const SIDECAR_TEXT: Record<Sidecar["kind"], string> = {
  mmproj: "vision projector",
  drafter: "draft model",
  imatrix: "importance matrix",
  adapter: "adapter",
};

const STATE_TEXT: Partial<Record<string, string>> = {
  downloaded: "On this machine",
  loading: "Loading…",
  loaded: "Loaded",
  ready: "On this machine",
};

const FIT_ICON: Record<FitVerdict, IconName> = {
  fits: "check",
  partial: "part",
  too_large: "cross",
  unknown: "unknown",
};

const FIT_TONE: Partial<Record<FitVerdict, string>> = { fits: "good", partial: "fair", too_large: "bad" };

interface VariantRowProps {
  store: Store;
  repoId: string;
  variant: Variant;
  /** Another variant of the repository has the same label. */
  isAmbiguous: boolean;
  isRecommended: boolean;
}

/** One variant of an open repository. A download that is under way, paused or failed says what the row shows. */
export function VariantRow({ store, repoId, variant, isAmbiguous, isRecommended }: VariantRowProps) {
  const row = store.row(repoId, variant.variant_id);
  const job = openJob(row.job.value);
  const isLoading = store.loadKey.value === row.key && store.load.value.state === "loading";
  const loadError = store.loadKey.value === row.key ? store.loadError.value : null;
  return (
    <RowShell
      store={store}
      row={row}
      name={`${variant.label}${isAmbiguous ? ` (${variant.variant_id})` : ""} of ${repoId}`}
      state={job?.state ?? variant.state}
      actions={job?.actions ?? (isLoading ? ["cancel_load"] : variant.actions)}
      job={job}
      size={variant.size}
      error={row.error.value ?? job?.error ?? loadError}
    >
      <div class="line">
        <span class="label">{variant.label}</span>
        {variant.quantization && variant.quantization !== variant.label ? (
          <span class="muted">{variant.quantization}</span>
        ) : null}
        {isRecommended ? (
          <span class="pill" data-tone="accent">
            <Icon name="star" />
            Recommended
          </span>
        ) : null}
        {!job && STATE_TEXT[variant.state] ? (
          <span class="pill" data-tone="good">
            {STATE_TEXT[variant.state]}
          </span>
        ) : null}
      </div>
      <div class="line small">
        <span class="size">{fileSize(variant.size)}</span>
        {variant.filenames.length > 1 ? <span>{variant.filenames.length} files</span> : null}
        {variant.sidecars.map((sidecar) => (
          <span key={sidecar.filename} title={sidecar.filename}>
            + {SIDECAR_TEXT[sidecar.kind] ?? sidecar.kind}
          </span>
        ))}
        {variant.fit ? <FitBadge fit={variant.fit} /> : null}
        {isAmbiguous ? <span class="code">{variant.variant_id}</span> : null}
      </div>
    </RowShell>
  );
}

/** A download without its card: only what the job itself knows. */
export function JobRow({ store, row, isAmbiguous }: { store: Store; row: Row; isAmbiguous: boolean }) {
  const job = row.job.value;
  if (!job) {
    return null;
  }
  return (
    <RowShell
      store={store}
      row={row}
      name={`${job.label}${isAmbiguous ? ` (${job.variant_id})` : ""} of ${job.repo_id}`}
      state={job.state}
      actions={job.actions}
      job={openJob(job)}
      size={job.total}
      error={row.error.value ?? job.error}
    >
      <div class="line">
        <span class="label">{job.label}</span>
        <span class="muted">{job.repo_id}</span>
      </div>
      <div class="line small">
        <span class="size">{fileSize(job.total)}</span>
        {isAmbiguous ? <span class="code">{job.variant_id}</span> : null}
      </div>
    </RowShell>
  );
}

interface RowShellProps {
  store: Store;
  row: Row;
  name: string;
  state: string;
  actions: readonly Action[];
  job: Job | undefined;
  size: number | null;
  error: ErrorInfo | null;
  children: preact.ComponentChildren;
}

function RowShell({ store, row, name, state, actions, job, size, error, children }: RowShellProps) {
  const isDismissible = row.error.value !== null || (error !== null && error === store.loadError.value);
  return (
    <li class="row" data-state={state} tabIndex={-1}>
      <div>{children}</div>
      <Actions store={store} row={row} name={name} actions={actions} size={size} />
      {job ? <JobProgress job={job} name={name} /> : null}
      {row.asked.value?.isWaiting.value ? <p class="fair">Waits for the running cell</p> : null}
      {error ? (
        <ErrorBox
          error={error}
          onDismiss={isDismissible ? () => store.dismissError(row) : undefined}
          dismissLabel={`Dismiss the error of ${name}`}
        />
      ) : null}
    </li>
  );
}

function FitBadge({ fit }: { fit: NonNullable<Variant["fit"]> }) {
  return (
    <span class="pill" data-tone={FIT_TONE[fit.verdict]} data-verdict={fit.verdict} title={fit.reason ?? undefined}>
      <Icon name={FIT_ICON[fit.verdict] ?? "unknown"} />
      {describeFit(fit)}
    </span>
  );
}
