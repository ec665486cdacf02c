import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Store } from "../store";
import type { PlainKey } from "../texts/language";
import type { Methods, SortKey } from "../wire";
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
  const { t } = useLanguage();
  const { text, sort } = store.search.value;
  const isOff = !store.connection.isUsable.value;
  const draft = useSignal(text);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const input = useRef<HTMLInputElement>(null);
  const order = useRef<HTMLSelectElement>(null);

  // Another view or Python may have searched. Follow it, unless somebody is typing here or has just typed.
  useEffect(() => {
    const root = input.current?.getRootNode() as ShadowRoot | Document;
    if (!timer.current && root.activeElement !== input.current) {
      draft.value = text;
    }
  }, [text, draft]);
  useEffect(() => () => clearTimeout(timer.current), []);

  // Search for what the controls show, which Python may not know yet.
  const search = () => {
    clearTimeout(timer.current);
    timer.current = undefined;
    store.searchFor(draft.peek().trim(), order.current?.value as SortKey);
  };

  return (
    // biome-ignore lint/a11y/useSemanticElements: <search> is unknown to the older webviews of VS Code
    <form
      class="search line"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        search();
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
            timer.current = setTimeout(search, DEBOUNCE_MS);
          }}
        />
      </div>
      <div class="line">
        <label>
          <span>{t("sort")}</span>
          <select ref={order} aria-label={t("sortBy")} value={sort} disabled={isOff} onChange={search}>
            {SORTS.map(([key, name]) => (
              <option key={key} value={key}>
                {t(name)}
              </option>
            ))}
          </select>
        </label>
        <ContextControl store={store} />
        <label>
          <input
            type="checkbox"
            checked={store.fitsOnly}
            onChange={(event) => {
              store.fitsOnly.value = event.currentTarget.checked;
            }}
          />
          <span>{t("fitsHere")}</span>
        </label>
        <label title={t("loadWhenReadyHelp")}>
          <input
            type="checkbox"
            checked={store.loadWhenReady}
            onChange={(event) => {
              store.loadWhenReady.value = event.currentTarget.checked;
            }}
          />
          <span>{t("loadWhenReady")}</span>
        </label>
      </div>
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
        disabled={!store.connection.isUsable.value}
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
