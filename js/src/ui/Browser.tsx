import { describeMemory } from "../describe";
import { endpointName } from "../links";
import type { Store } from "../store";
import { Banners } from "./Banners";
import { Icon } from "./icons";
import { LoadPanel } from "./LoadPanel";
import { Results } from "./Results";
import { JobRows } from "./Rows";
import { SearchBar } from "./SearchBar";
import { Toasts } from "./Toasts";

export function Browser({ store }: { store: Store }) {
  return (
    <section class="deck" aria-label="Model browser" data-connection={store.connection.state.value}>
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
        {hardware
          ? describeMemory(hardware).map(({ name, text, used }, index) => (
              <span key={index}>
                {used === null ? null : (
                  <span class="track" aria-hidden="true">
                    <span class="fill" style={{ transform: `scaleX(${used})` }} />
                  </span>
                )}
                {name} {text}
              </span>
            ))
          : null}
      </span>
    </header>
  );
}

/** Downloads that no card shows: of other sessions, other searches and folded cards. */
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
