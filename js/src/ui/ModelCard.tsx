import type { ComponentChildren } from "preact";
import { isKept } from "../fits";
import { ago, count, parameters, tokens } from "../format";
import { repoPage, safeLink } from "../links";
import { openJob, type Store } from "../store";
import type { ModelSummary, Repo } from "../wire";
import { ErrorBox } from "./ErrorBox";
import { Icon } from "./icons";
import { VariantRow } from "./VariantRow";

interface ModelCardProps {
  store: Store;
  model: ModelSummary;
}

/** One repository of the results; unfolds to its files. */
export function ModelCard({ store, model }: ModelCardProps) {
  const { repo_id } = model;
  const isUnfolded = store.isUnfolded(repo_id);
  const canFold = store.isUsable.value || store.repo(repo_id).value !== undefined;
  const slash = repo_id.indexOf("/") + 1;
  return (
    <li class="card">
      <div class="card-head">
        <div class="card-text">
          <h3>
            <span class="owner">{repo_id.slice(0, slash)}</span>
            {repo_id.slice(slash)}
          </h3>
          <Facts model={model} />
        </div>
        <HubLink store={store} repoId={repo_id} />
        <button
          type="button"
          class="button quiet unfold"
          aria-label={`Show files of ${repo_id}`}
          aria-expanded={isUnfolded}
          disabled={!canFold}
          onClick={() => store.setUnfolded(repo_id, !isUnfolded)}
        >
          <span>Show files</span>
          <Icon name="chevron" />
        </button>
      </div>
      {isUnfolded ? <Files store={store} repoId={repo_id} /> : null}
    </li>
  );
}

function Facts({ model }: { model: ModelSummary }) {
  const updated = model.last_modified ? ago(model.last_modified) : null;
  return (
    <p class="line small">
      {model.gated ? (
        <span class="pill" data-tone="fair" title="The licence must be accepted on the Hub first">
          <Icon name="lock" />
          gated
        </span>
      ) : null}
      {model.parameter_count === null ? null : <Fact name="Parameters">{parameters(model.parameter_count)}</Fact>}
      {model.architecture ? <Fact name="Architecture">{model.architecture}</Fact> : null}
      {model.context_length === null ? null : <Fact name="Context length">{tokens(model.context_length)} context</Fact>}
      {model.license ? <Fact name="Licence">{model.license}</Fact> : null}
      {model.downloads === null ? null : (
        <Fact name="Downloads">
          <Icon name="download" />
          {count(model.downloads)}
        </Fact>
      )}
      {model.likes === null ? null : (
        <Fact name="Likes">
          <Icon name="heart" />
          {count(model.likes)}
        </Fact>
      )}
      {updated ? <Fact name="Updated">{updated}</Fact> : null}
    </p>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <span title={name}>
      <span class="hidden">{name}: </span>
      {children}
    </span>
  );
}

/** The repository's own page; mirrors on plain http have none worth showing. */
function HubLink({ store, repoId }: { store: Store; repoId: string }) {
  const { endpoint } = store.view.value;
  const url = endpoint.startsWith("https:") ? repoPage(endpoint, repoId) : null;
  return url ? (
    <a class="hub" href={url} target="_blank" rel="noopener noreferrer" aria-label={`Page of ${repoId} (new tab)`}>
      <Icon name="external" />
    </a>
  ) : null;
}

function Files({ store, repoId }: { store: Store; repoId: string }) {
  const repo = store.repo(repoId).value;
  const asked = store.asked(`repo ${repoId}`).value;
  if (repo?.state === "failed" && repo.error) {
    return (
      <div class="files">
        <ErrorBox error={repo.error}>
          <button
            type="button"
            class="button tonal"
            aria-label={`Retry ${repoId}`}
            disabled={!store.isUsable.value}
            onClick={() => store.reopen(repoId)}
          >
            Retry
          </button>
        </ErrorBox>
      </div>
    );
  }
  if (repo?.state !== "open") {
    return (
      <div class="files" aria-busy="true">
        <p class="note small">{asked?.isWaiting.value ? "Waits for the running cell" : "Reading the list of files…"}</p>
        <div class="skeleton" />
      </div>
    );
  }
  return <Variants store={store} repoId={repoId} repo={repo} />;
}

function Variants({ store, repoId, repo }: { store: Store; repoId: string; repo: Repo }) {
  const labels = new Map<string, number>();
  for (const { label } of repo.variants) {
    labels.set(label, (labels.get(label) ?? 0) + 1);
  }
  const variants = store.fitsOnly.value
    ? repo.variants.filter((variant) => isKept(variant) || openJob(store.row(repoId, variant.variant_id).job.value))
    : repo.variants;
  const hidden = repo.variants.length - variants.length;
  return (
    <div class="files">
      <Licence repo={repo} />
      {repo.variants.length === 0 ? <p class="note small">This repository has no GGUF files.</p> : null}
      <ul aria-label={`Files of ${repoId}`}>
        {variants.map((variant) => (
          <VariantRow
            key={variant.variant_id}
            store={store}
            repoId={repoId}
            variant={variant}
            isAmbiguous={(labels.get(variant.label) ?? 0) > 1}
            isRecommended={variant.variant_id === repo.recommended}
          />
        ))}
      </ul>
      {hidden > 0 ? (
        <p class="note small">
          {hidden} too large for this machine and hidden by “Fits here”.{" "}
          <button
            type="button"
            class="link"
            onClick={() => {
              store.fitsOnly.value = false;
            }}
          >
            Show all
          </button>
        </p>
      ) : null}
    </div>
  );
}

function Licence({ repo }: { repo: Repo }) {
  const url = safeLink(repo.license_url);
  if (!repo.gated) {
    return null;
  }
  return (
    <p class="note small">
      <Icon name="lock" /> Gated{repo.license ? ` (${repo.license})` : ""}: accept the licence on the Hub, then download
      with your token.{" "}
      {url ? (
        <a href={url} target="_blank" rel="noopener noreferrer">
          Licence page
          <Icon name="external" />
        </a>
      ) : null}
    </p>
  );
}
