import { describeMemory } from "../describe";
import { mayFit } from "../fits";
import { endpointName } from "../links";
import type { Row, Store } from "../store";
import { Banners } from "./Banner";
import { ErrorBox } from "./ErrorBox";
import { Icon } from "./icons";
import { LoadPanel } from "./LoadPanel";
import { ModelCard } from "./ModelCard";
import { SearchBar } from "./SearchBar";
import { Toasts } from "./Toasts";
import { JobRow } from "./VariantRow";

export function Browser({ store }: { store: Store }) {
  return (
    <section class="deck" aria-label="Model browser" data-connection={store.connection.value}>
      <Header store={store} />
      <Banners store={store} />
      <SearchBar store={store} />
      <div class="body">
        <LoadPanel store={store} />
        <Downloads store={store} />
        <Results store={store} />
      </div>
      <Toasts store={store} />
    </section>
  );
}

function Header({ store }: { store: Store }) {
  const { endpoint, is_default_endpoint, hardware } = store.view.value;
  return (
    <header class="header line small">
      <span class="brand">
        <Icon name="deck" />
        modeldeck
      </span>
      {endpoint ? (
        <span class="pill endpoint" data-tone={is_default_endpoint ? undefined : "accent"} title={endpoint}>
          <span class="hidden">Browsing </span>
          {endpointName(endpoint)}
        </span>
      ) : null}
      <span class="line memory">
        {(hardware ? describeMemory(hardware) : []).map(({ name, text, used }, index) => (
          <span key={index}>
            {used === null ? null : (
              <span class="track meter" aria-hidden="true">
                <span class="fill" style={{ transform: `scaleX(${used})` }} />
              </span>
            )}
            {name} {text}
          </span>
        ))}
      </span>
    </header>
  );
}

/** Downloads that no card shows: of other sessions, other searches, folded cards. */
function Downloads({ store }: { store: Store }) {
  const open = store.strayRows.value;
  const finished = store.finishedRows.value;
  if (open.length + finished.length === 0) {
    return null;
  }
  return (
    <section class="panel downloads" aria-label="Downloads">
      <h2>Downloads</h2>
      <JobRows store={store} rows={open} />
      {finished.length > 0 ? (
        <details>
          <summary>Finished ({finished.length})</summary>
          <JobRows store={store} rows={finished} />
        </details>
      ) : null}
    </section>
  );
}

function JobRows({ store, rows }: { store: Store; rows: Row[] }) {
  const names = new Map<string, number>();
  const nameOf = (row: Row) => `${row.job.peek()?.label} ${row.repoId}`;
  for (const row of rows) {
    names.set(nameOf(row), (names.get(nameOf(row)) ?? 0) + 1);
  }
  return (
    <ul>
      {rows.map((row) => (
        <JobRow key={row.key} store={store} row={row} isAmbiguous={(names.get(nameOf(row)) ?? 0) > 1} />
      ))}
    </ul>
  );
}

function Results({ store }: { store: Store }) {
  const search = store.search.value;
  const asked = store.asked("search").value;
  const isSearching = search.state === "searching" || asked !== undefined;
  const { hardware } = store.view.value;
  const models = store.fitsOnly.value ? search.models.filter((model) => mayFit(model, hardware)) : search.models;
  const hidden = search.models.length - models.length;
  return (
    <section class="results" aria-label="Results" aria-busy={isSearching}>
      <p class="summary small" aria-live="polite">
        {asked?.isWaiting.value ? "The search waits for the running cell" : isSearching ? "Searching…" : summary(store)}
        {hidden > 0 ? `, ${hidden} too large for this machine hidden` : ""}
      </p>
      {search.state === "failed" && search.error ? (
        <ErrorBox error={search.error}>
          <button
            type="button"
            class="button tonal"
            aria-label="Retry the search"
            disabled={!store.isUsable.value}
            onClick={() => store.searchFor(search.text, search.sort)}
          >
            Retry
          </button>
        </ErrorBox>
      ) : null}
      {search.state === "done" && search.models.length === 0 ? <Nothing text={search.text} /> : null}
      {isSearching && search.models.length === 0 ? <Skeletons /> : null}
      <ul class="cards">
        {models.map((model) => (
          <ModelCard key={model.repo_id} store={store} model={model} />
        ))}
      </ul>
      {search.has_more ? <More store={store} /> : null}
    </section>
  );
}

function summary(store: Store): string {
  const { state, models, has_more } = store.search.value;
  if (state === "idle" && models.length === 0) {
    return "Type to search the Hub for GGUF models";
  }
  if (models.length === 0) {
    return "";
  }
  return `${models.length} ${models.length === 1 ? "model" : "models"}${has_more ? ", and more" : ""}`;
}

function Nothing({ text }: { text: string }) {
  return (
    <div class="nothing">
      <Icon name="search" />
      <p>
        <b>No GGUF models {text ? `for “${text}”` : "here"}</b>
      </p>
      <p class="muted">Try fewer words: the Hub looks for them in the name of the repository and of its owner.</p>
    </div>
  );
}

function Skeletons() {
  return (
    <div aria-hidden="true">
      {[0, 1, 2].map((index) => (
        <div class="skeleton" key={index} />
      ))}
    </div>
  );
}

function More({ store }: { store: Store }) {
  const asked = store.asked("more").value;
  return (
    <button
      type="button"
      class="button more"
      aria-disabled={asked !== undefined}
      disabled={!store.isUsable.value}
      onClick={() => {
        if (!asked) {
          store.searchMore();
        }
      }}
    >
      {asked?.isWaiting.value ? "Waits for the running cell" : asked ? "Loading…" : "Load more"}
    </button>
  );
}
