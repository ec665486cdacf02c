import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { describeParameters, describeReason } from "../describe";
import { isKept } from "../fits";
import { repoPage, safeLink } from "../links";
import { openJob } from "../row-table";
import type { Store } from "../store";
import type { PlainKey } from "../texts/language";
import { firstVariants, groupsOf, nameOfBits } from "../variant-list";
import type { RepoView, StepView, SummaryView, VariantRowView } from "../wire";
import { About } from "./About";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { Icon, type IconName } from "./icons";
import { Link } from "./Link";
import { useLanguage } from "./language";
import { Pill } from "./Pill";
import { JobRows, sidecarName, VariantRow } from "./Rows";
import { PickError, ShortWay } from "./ShortWay";

interface RepoProps {
  store: Store;
  repoId: string;
}

/** The button of the first card appears by itself, those of the others when somebody points at them. */
const FIRST_PEEK_MS = 700;
const PEEK_MS = 150;

interface ModelCardProps {
  store: Store;
  model: SummaryView;
  isFirst: boolean;
}

/** One repository of the results; unfolds to its files. */
export function ModelCard({ store, model, isFirst }: ModelCardProps) {
  const { t } = useLanguage();
  const repoId = model.repo_id;
  const isUnfolded = store.isUnfolded(repoId);
  const slash = repoId.indexOf("/") + 1;
  const isOff = store.isOff.value && !store.repo(repoId).value;
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const peekAfter = (milliseconds: number) => {
    clearTimeout(timer.current);
    timer.current = setTimeout(() => store.peek(repoId), milliseconds);
  };
  useEffect(() => {
    if (isFirst) {
      peekAfter(FIRST_PEEK_MS);
    }
    return () => clearTimeout(timer.current);
  }, [repoId, isFirst]);
  const toggle = () => {
    store.setUnfolded(repoId, !isUnfolded);
  };
  return (
    // biome-ignore lint/a11y/useSemanticElements: not the child of a <ul>
    <div
      class="card"
      role="listitem"
      onPointerEnter={() => peekAfter(PEEK_MS)}
      onPointerLeave={() => isFirst || clearTimeout(timer.current)}
      onFocusIn={() => peekAfter(PEEK_MS)}
    >
      {/* biome-ignore lint/a11y/noStaticElementInteractions lint/a11y/useKeyWithClickEvents: keys have the button */}
      <div
        class="card-head"
        onClick={(event) => {
          // The name can be selected without unfolding the card.
          if (!isOff && !(event.target as Element).closest("a, button") && !String(getSelection())) {
            toggle();
          }
        }}
      >
        <div class="grow">
          <h3>
            <span class="owner">{repoId.slice(0, slash)}</span>
            {repoId.slice(slash)}
          </h3>
          <Facts model={model} />
        </div>
        <HubLink store={store} repoId={repoId} />
        <ShortWay store={store} repoId={repoId} />
        <Button
          tone="quiet unfold"
          name={t("showFilesOf", { repo: repoId })}
          aria-expanded={isUnfolded}
          disabled={isOff}
          onClick={toggle}
        >
          <span>{t("showFiles")}</span>
          <Icon name="chevron" />
        </Button>
      </div>
      {isUnfolded ? <Files store={store} model={model} /> : <Folded store={store} repoId={repoId} />}
    </div>
  );
}

/** What a folded card shows below its head: its downloads, where they were started, and what was refused. */
function Folded({ store, repoId }: RepoProps) {
  const rows = store.rowsOf(repoId);
  return rows.length > 0 ? (
    <div class="files">
      <JobRows store={store} rows={rows} isInCard />
    </div>
  ) : (
    <PickError store={store} repoId={repoId} />
  );
}

function Facts({ model }: { model: SummaryView }) {
  const language = useLanguage();
  const { t, format } = language;
  const { context_length, downloads, likes, last_modified } = model;
  const context = context_length === null ? null : t("contextOf", { tokens: format.tokens(context_length) });
  const facts: [name: PlainKey, text: string | null, icon?: IconName][] = [
    ["factParameters", describeParameters(model, language)],
    ["factArchitecture", model.architecture],
    ["contextLength", context],
    ["factLicence", model.license],
    ["factDownloads", downloads === null ? null : format.count(downloads), "download"],
    ["factLikes", likes === null ? null : format.count(likes), "heart"],
    ["factUpdated", last_modified ? format.ago(last_modified) : null],
  ];
  return (
    <p class="line small">
      {model.gated ? (
        <Pill tone="fair" icon="lock" title={t("gatedHelp")}>
          {t("gated")}
        </Pill>
      ) : null}
      {facts.map(([name, text, icon]) =>
        text ? (
          <span key={name} title={t(name)}>
            <span class={name === "factUpdated" ? "" : "hidden"}>{t(name)} </span>
            {icon ? <Icon name={icon} /> : null}
            {text}
          </span>
        ) : null,
      )}
    </p>
  );
}

/** The repository's own page. Endpoints on plain http are local ones, without pages for people. */
function HubLink({ store, repoId }: RepoProps) {
  const { t } = useLanguage();
  const { endpoint } = store.view.value;
  const url = endpoint.startsWith("https:") ? repoPage(endpoint, repoId) : null;
  return url ? (
    <a class="hub" href={url} target="_blank" rel="noopener noreferrer" aria-label={t("pageOf", { repo: repoId })}>
      <Icon name="external" />
    </a>
  ) : null;
}

function Files({ store, model }: { store: Store; model: SummaryView }) {
  const repoId = model.repo_id;
  const { t } = useLanguage();
  const repo = store.repo(repoId).value;
  if (repo?.state === "failed" && repo.error) {
    return (
      <div class="files">
        <ErrorBox
          error={repo.error}
          name={repoId}
          isOff={store.isOff.value}
          onRetry={() => store.setUnfolded(repoId, true)}
        />
      </div>
    );
  }
  if (repo?.state === "open") {
    return <Variants store={store} model={model} repo={repo} />;
  }
  const isWaiting = store.asked(`repo ${repoId}`).value?.isWaiting.value;
  return (
    <div class="files" aria-busy="true">
      <p class="note small">{t(isWaiting ? "waitingForCell" : "readingFiles")}</p>
      <div class="skeleton" />
    </div>
  );
}

function Variants({ store, model, repo }: { store: Store; model: SummaryView; repo: RepoView }) {
  const repoId = model.repo_id;
  const language = useLanguage();
  const { t, format } = language;
  const labels = repo.variants.map(({ label }) => label);
  const variants = repo.variants.filter(
    (variant) => !store.fitsOnly.value || isKept(variant) || openJob(store.row(repoId, variant.variant_id).job.value),
  );
  const hidden = labels.length - variants.length;
  const isAll = useSignal(false);
  const isInUse = (variant: VariantRowView) =>
    variant.state !== "available" || openJob(store.row(repoId, variant.variant_id).job.value) !== undefined;
  const first = firstVariants(variants, repo.recommended, isInUse);
  const isLong = first.length < variants.length;
  const { common } = repo;
  const row = (variant: VariantRowView) => (
    <VariantRow
      key={variant.variant_id}
      store={store}
      repoId={repoId}
      variant={variant}
      common={common}
      isAmbiguous={labels.indexOf(variant.label) !== labels.lastIndexOf(variant.label)}
      isRecommended={variant.variant_id === repo.recommended}
      reason={repo.recommended_reason ? describeReason(repo.recommended_reason, language) : null}
    />
  );
  return (
    <div class="files">
      <About store={store} model={model} />
      {repo.hub_error ? <p class="note small">{t("fromCache", { error: language.error(repo.hub_error) })}</p> : null}
      {repo.only_in_cache.length > 0 ? (
        <p class="note small">{t("onlyInCache", { labels: repo.only_in_cache.join(", ") })}</p>
      ) : null}
      {repo.steps.length > 0 ? <Steps store={store} repoId={repoId} steps={repo.steps} /> : null}
      {repo.model?.has_chat_template === false && !repo.model.is_embedding ? (
        <p class="note small">{t("noChatTemplate")}</p>
      ) : null}
      {common.map((sidecar) => (
        <label key={sidecar.filename} class="note small" title={sidecar.filename}>
          <input
            type="checkbox"
            checked={repo.has_projector}
            disabled={store.isOff.value || store.cluster.value.is_used}
            onChange={({ currentTarget }) =>
              void store.ask("projector", "set_projector", { repo_id: repoId, is_wanted: currentTarget.checked })
            }
          />
          {t("withEach", { name: `${sidecarName(sidecar.kind, language)}, ${format.fileSize(sidecar.size)}` })}
        </label>
      ))}
      <ul aria-label={t("filesOf", { repo: repoId })}>
        {isLong && isAll.value
          ? groupsOf(variants).flatMap((group) => [
              <li key={String(group.bits)} class="group">
                <h4>{nameOfBits(group.bits, language)}</h4>
              </li>,
              ...group.variants.map(row),
            ])
          : first.map(row)}
      </ul>
      {isLong ? (
        <Button
          tone="more"
          aria-expanded={isAll.value}
          onClick={() => {
            isAll.value = !isAll.value;
          }}
        >
          {isAll.value ? t("showFewerFiles") : t("showAllFiles", { count: variants.length })}
          <span class="hidden"> {t("ofRepo", { repo: repoId })}</span>
        </Button>
      ) : null}
      {repo.incomplete.map(({ name, count, total }) => (
        <p key={name} class="note small">
          {t("incompleteShards", { name, count, total })}
        </p>
      ))}
      {labels.length === 0 ? <p class="note small">{t("noFiles")}</p> : null}
      {hidden > 0 ? (
        <p class="note small">
          {t("hiddenVariants", { count: hidden })}{" "}
          <Button
            tone="link"
            onClick={() => {
              store.fitsOnly.value = false;
            }}
          >
            {t("showAll")}
          </Button>
        </p>
      ) : null}
    </div>
  );
}

/** What to do for a gated model, in order. */
function Steps({ store, repoId, steps }: RepoProps & { steps: readonly StepView[] }) {
  const { t, said } = useLanguage();
  const isWaiting = steps.some(({ state }) => state !== "done");
  return (
    <div class="note small">
      <ol class="steps">
        {steps.map(({ code, text, state, url }) => {
          const page = state === "done" ? null : safeLink(url);
          return (
            <li key={code} data-state={state} aria-current={state === "now" ? "step" : undefined}>
              {state === "done" ? <Icon name="check" /> : null} {said("notices", code, text)}{" "}
              {page ? <Link url={page}>{t(code === "gated_accept" ? "licencePage" : "tokensPage")}</Link> : null}
            </li>
          );
        })}
      </ol>
      {isWaiting ? (
        <Button disabled={store.isOff.value} onClick={() => store.setUnfolded(repoId, true)}>
          {t("checkAgain")}
        </Button>
      ) : null}
    </div>
  );
}
