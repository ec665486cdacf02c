import { useSignal } from "@preact/signals";
import { chipsOf } from "../filters";
import { mayFit } from "../fits";
import type { Store } from "../store";
import type { Language } from "../texts/language";
import type { SearchView, SummaryView } from "../wire";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { Icon } from "./icons";
import { LibraryRows } from "./Library";
import { useLanguage } from "./language";
import { ModelCard } from "./ModelCard";

const CARDS_IN_CHUNK = 10;

/** What the search found. */
export function Results({ store }: { store: Store }) {
  const language = useLanguage();
  const { t } = language;
  const { state, text, filters, models, error, has_more } = store.search.value;
  const asked = store.asked("search").value;
  const isSearching = state === "searching" || asked !== undefined;
  const dismissed = useSignal<SearchView["error"]>(null);
  const hardware = store.cluster.value.is_used ? null : store.view.value.hardware;
  const local = new Set(store.localOnly.value ? store.search.value.local : []);
  const shown = models.filter(
    (model) =>
      store.rowsOf(model.repo_id).length > 0 ||
      ((!store.fitsOnly.value || mayFit(model, hardware)) && (!store.localOnly.value || local.has(model.repo_id))),
  );
  return (
    <section class="results" aria-label={t("results")} aria-busy={isSearching}>
      <p class="note small" aria-live="polite">
        {asked?.isWaiting.value
          ? t("waitingForCell")
          : isSearching
            ? t("searching")
            : summary(language, store.search.value, shown.length)}
      </p>
      {models.length > 0 ? null : isSearching ? (
        [0, 1, 2].map((index) => <div class="skeleton" key={index} />)
      ) : state === "done" ? (
        <div class="nothing">
          <Icon name="search" />
          <p>
            <b>{text ? t("nothingFor", { text }) : t("nothingHere")}</b>
          </p>
          <p class="muted">{t(chipsOf(filters, language).length > 0 ? "looserFilters" : "fewerWords")}</p>
        </div>
      ) : null}
      {/* biome-ignore lint/a11y/useSemanticElements: a <ul> may not hold the chunks */}
      <div class="cards" role="list">
        {chunks(shown).map((models, index) => (
          <div class="chunk" role="presentation" key={index}>
            {models.map((model) => (
              <ModelCard key={model.repo_id} store={store} model={model} isFirst={model === shown[0]} />
            ))}
          </div>
        ))}
      </div>
      {state === "failed" && error && error !== dismissed.value ? (
        <ErrorBox
          error={error}
          name={t("theSearch")}
          isOff={store.isOff.value}
          // In offline mode another attempt ends in the same way. If the next page could not be read, "Load more" below
          // asks for it again.
          {...(error.details.is_offline_mode
            ? {
                onDismiss: () => {
                  dismissed.value = error;
                },
              }
            : { onRetry: has_more ? undefined : () => store.refine({}) })}
        />
      ) : null}
      {/* Without the Hub: what is here can be loaded. */}
      {state === "failed" && models.length === 0 && store.library.value.models.length > 0 ? (
        <section class="panel downloads" aria-label={t("onThisMachine")}>
          <h2>{t("withoutHub")}</h2>
          <LibraryRows store={store} models={store.library.value.models} />
        </section>
      ) : null}
      {/* Takes the focus when there are no more pages: the end of the list, not its beginning. */}
      <div tabIndex={-1}>{has_more ? <More store={store} /> : null}</div>
    </section>
  );
}

/** Of a long list only the chunks in sight are laid out and drawn. Single cards would come and go too often. */
function chunks(models: SummaryView[]): SummaryView[][] {
  const count = Math.ceil(models.length / CARDS_IN_CHUNK);
  return Array.from({ length: count }, (_, index) =>
    models.slice(index * CARDS_IN_CHUNK, (index + 1) * CARDS_IN_CHUNK),
  );
}

/** How many models there are, in one line. */
function summary({ t }: Language, { state, text, sort, models, has_more }: SearchView, shown: number): string {
  const total = models.length;
  if (total === 0) {
    return state === "idle" ? t("typeToSearch") : "";
  }
  const parts = [t(has_more ? "firstModels" : "models", { count: shown })];
  if (text === "" && sort === "trending") {
    parts.push(t("trendingNow"));
  }
  if (shown < total) {
    parts.push(t("hiddenModels", { count: total - shown }));
  }
  return shown === 0 ? t("allHidden") : parts.join(", ");
}

function More({ store }: { store: Store }) {
  const { t } = useLanguage();
  const asked = store.asked("more").value;
  return (
    <Button
      tone="more"
      aria-disabled={asked !== undefined}
      disabled={store.isOff.value}
      onClick={() => {
        if (!asked) {
          store.searchMore();
        }
      }}
    >
      {t(asked?.isWaiting.value ? "waitingForCell" : asked ? "loadingMore" : "loadMore")}
    </Button>
  );
}
