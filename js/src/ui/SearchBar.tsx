import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { chipsOf } from "../filters";
import type { SearchChoices, Store } from "../store";
import type { PlainKey } from "../texts/language";
import type { Methods, SortKey } from "../wire";
import { Button } from "./Button";
import { Chips, Filters, RecentSearches, Switch } from "./Filters";
import { Icon } from "./icons";
import { useLanguage } from "./language";

const DEBOUNCE_MS = 300;

const SORTS: [SortKey, PlainKey][] = [
  ["downloads", "sortDownloads"],
  ["trending", "sortTrending"],
  ["likes", "sortLikes"],
  ["modified", "sortModified"],
  ["created", "sortCreated"],
];

const CONTEXTS = [2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072];

export function SearchBar({ store }: { store: Store }) {
  const language = useLanguage();
  const { t } = language;
  const { text } = store.search.value;
  const { sort, filters } = store.choices.value;
  const isOff = store.isOff.value;
  const draft = useSignal(text);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const input = useRef<HTMLInputElement>(null);
  const button = useRef<HTMLDivElement>(null);
  const isOpen = useSignal(false);

  // Another view or Python may have searched. Follow it, unless somebody is typing here or has just typed.
  useEffect(() => {
    const root = input.current?.getRootNode() as ShadowRoot | Document;
    if (!timer.current && root.activeElement !== input.current) {
      draft.value = text;
    }
  }, [text, draft]);
  useEffect(() => () => clearTimeout(timer.current), []);

  const search = (changes: Partial<SearchChoices> = {}) => {
    clearTimeout(timer.current);
    timer.current = undefined;
    store.refine({ text: draft.peek().trim(), ...changes });
  };
  /** After a pause of typing, unless what is typed is what is shown. */
  const pause = () => {
    timer.current = undefined;
    if (draft.peek().trim() !== store.choices.peek().text) {
      search();
    }
  };
  const filterCount = chipsOf(filters, language).length + Number(store.fitsOnly.value) + Number(store.localOnly.value);

  return (
    // biome-ignore lint/a11y/useSemanticElements: <search> is unknown to the older webviews of VS Code
    <form
      class="search line"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        search();
        store.rememberSearch();
      }}
      onKeyDown={(event) => {
        // In the search box, Escape clears the text, as in any.
        if (event.key === "Escape" && isOpen.value && event.target !== input.current) {
          event.preventDefault();
          event.stopPropagation();
          isOpen.value = false;
          button.current?.querySelector("button")?.focus();
        }
      }}
    >
      <div class="field">
        <Icon name="search" />
        <input
          ref={input}
          type="search"
          aria-label={t("searchModels")}
          placeholder={t("searchModels")}
          autocomplete="off"
          spellcheck={false}
          value={draft}
          disabled={isOff}
          onInput={(event) => {
            draft.value = event.currentTarget.value;
            clearTimeout(timer.current);
            timer.current = setTimeout(pause, DEBOUNCE_MS);
          }}
        />
      </div>
      <div class="line">
        <label>
          <span>{t("sort")}</span>
          <select
            aria-label={t("sortBy")}
            value={sort}
            disabled={isOff}
            onChange={(event) => search({ sort: event.currentTarget.value as SortKey })}
          >
            {SORTS.map(([key, name]) => (
              <option key={key} value={key}>
                {t(name)}
              </option>
            ))}
          </select>
        </label>
        <ContextControl store={store} />
        <div ref={button}>
          <Button
            tone="filter"
            name={t("filters")}
            aria-expanded={isOpen.value}
            data-count={filterCount || undefined}
            disabled={isOff}
            onClick={() => {
              isOpen.value = !isOpen.value;
            }}
          >
            <Icon name="filter" />
            {t("filters")}
          </Button>
        </div>
        {/* The filters have it while they are open. */}
        {isOpen.value ? null : <Switch of={store.fitsOnly}>{t("fitsHere")}</Switch>}
        {store.cluster.value.is_used ? null : (
          <Switch of={store.loadWhenReady} help={t("loadWhenReadyHelp")}>
            {t("loadWhenReady")}
          </Switch>
        )}
      </div>
      {isOpen.value ? <Filters store={store} /> : null}
      <Chips store={store} />
      {draft.value.trim() === "" && !isOff ? (
        <RecentSearches
          store={store}
          onChoose={(recent) => {
            draft.value = recent;
            search();
            input.current?.focus();
          }}
        />
      ) : null}
    </form>
  );
}

function ContextControl({ store }: { store: Store }) {
  const { t } = useLanguage();
  const asked = store.asked("n_ctx").value;
  // What was chosen stays chosen while Python has not answered.
  const { n_ctx } = (asked?.params as Methods["set_n_ctx"] | undefined) ?? store.view.value;
  const sizes = CONTEXTS.includes(n_ctx) ? CONTEXTS : [...CONTEXTS, n_ctx].sort((a, b) => a - b);
  return (
    <label title={t("contextHelp")}>
      <span>{t("context")}</span>
      <select
        aria-label={t("contextLength")}
        aria-busy={asked !== undefined}
        value={String(n_ctx)}
        disabled={store.isOff.value}
        onChange={(event) => store.setContext(Number(event.currentTarget.value))}
      >
        {sizes.map((size) => (
          <option key={size} value={size}>
            {t("tokens", { count: size })}
          </option>
        ))}
      </select>
    </label>
  );
}
