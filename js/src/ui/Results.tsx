import { mayFit } from "../fits";
import type { Store } from "../store";
import type { Language } from "../texts/language";
import type { SummaryView } from "../wire";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { Icon } from "./icons";
import { useLanguage } from "./language";
import { ModelCard } from "./ModelCard";

const CARDS_IN_CHUNK = 10;

/** What the search found. */
export function Results({ store }: { store: Store }) {
  const language = useLanguage();
  const { t } = language;
  const { state, text, sort, models, error, has_more } = store.search.value;
  const asked = store.asked("search").value;
  const isSearching = state === "searching" || asked !== undefined;
  const { hardware } = store.view.value;
  const shown = store.fitsOnly.value ? models.filter((model) => mayFit(model, hardware)) : models;
  return (
    <section class="results" aria-label={t("results")} aria-busy={isSearching}>
      <p class="note small" aria-live="polite">
        {asked?.isWaiting.value
          ? t("searchWaits")
          : isSearching
            ? t("searching")
            : summary(language, state === "idle", shown.length, models.length, has_more)}
      </p>
      {models.length > 0 ? null : isSearching ? (
        [0, 1, 2].map((index) => <div class="skeleton" key={index} />)
      ) : state === "done" ? (
        <div class="nothing">
          <Icon name="search" />
          <p>
            <b>{text ? t("nothingFor", { text }) : t("nothingHere")}</b>
          </p>
          <p class="muted">{t("fewerWords")}</p>
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
      {state === "failed" && error ? (
        <ErrorBox
          error={error}
          name={t("theSearch")}
          isOff={!store.connection.isUsable.value}
          // If the next page could not be read, "Load more" below asks for it again.
          onRetry={has_more ? undefined : () => store.searchFor(text, sort)}
        />
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

function summary({ t }: Language, isIdle: boolean, shown: number, total: number, hasMore: boolean): string {
  if (total === 0) {
    return isIdle ? t("typeToSearch") : "";
  }
  const found = t(hasMore ? "firstModels" : "models", { count: shown });
  return shown < total ? `${found}, ${t("hiddenModels", { count: total - shown })}` : found;
}

function More({ store }: { store: Store }) {
  const { t } = useLanguage();
  const asked = store.asked("more").value;
  return (
    <Button
      tone="more"
      aria-disabled={asked !== undefined}
      disabled={!store.connection.isUsable.value}
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
