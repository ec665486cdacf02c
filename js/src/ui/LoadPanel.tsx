import { describeStage } from "../describe";
import type { Store } from "../store";
import { Actions } from "./Actions";
import { CopyButton, CopyCode } from "./CopyButton";
import { ErrorBox } from "./ErrorBox";
import { useLanguage } from "./language";
import { Progress } from "./Progress";
import { Trial } from "./Trial";

const CHAT = `browser.llm.create_chat_completion(
    messages=[{"role": "user", "content": "Hello!"}]
)`;
const SNIPPETS = {
  chat: CHAT,
  completion: `browser.llm("Once upon a time", max_tokens=64)`,
  embedding: `browser.llm.create_embedding("Hello!")`,
};

/** The model that is being loaded, is loaded, or could not be. */
export function LoadPanel({ store }: { store: Store }) {
  const language = useLanguage();
  const { t, parts } = language;
  const load = store.load.value;
  const { state, repo_id, variant_id } = load;
  if (state === "none" || repo_id === null || variant_id === null) {
    return null;
  }
  const row = store.row(repo_id, variant_id);
  const name = t("variantOf", { label: load.label ?? variant_id, repo: repo_id });
  // The row on its card shows the buttons and the error already.
  const isShown = store.tab.value === "discover" && store.shownKeys.value.has(row.key);
  const error = isShown ? null : (row.error.value ?? store.loadError.value);
  if (state === "failed" && !error) {
    return null;
  }
  const isReady = state === "ready";
  const title = ({ loading: "loadingModel", ready: "loadedModel", failed: "loadFailedModel" } as const)[state];
  return (
    <section class="panel" aria-label={t("modelInUse")} data-state={state}>
      <div class="line">
        <p class="grow">
          {parts(title, { name: <b>{name}</b> })}
          {isReady && load.n_ctx ? <span class="muted">{t("withContext", { count: load.n_ctx })}</span> : null}
        </p>
        {isShown || (store.tab.value === "discover" && store.pickKeys.value.has(row.key)) ? null : (
          <Actions store={store} row={row} name={name} actions={load.actions} />
        )}
      </div>
      {error ? (
        <ErrorBox
          error={error}
          name={name}
          isOff={store.isOff.value}
          onRetry={() => store.act(row, "load", { is_retry: true })}
          onDismiss={() => store.dismissError(row)}
        />
      ) : null}
      {isReady ? (
        <>
          {load.kind ? <Trial key={row.key} store={store} name={name} kind={load.kind} /> : null}
          <Snippet code={SNIPPETS[load.kind ?? "chat"]} />
          {load.code ? <CopyCode name={name} code={load.code} hasLock={store.tab.value !== "library"} /> : null}
        </>
      ) : state === "loading" ? (
        <>
          <Progress
            label={t("loadingOf", { name })}
            percent={load.fraction === null ? null : Math.floor(load.fraction * 100)}
            text={describeStage(load, language)}
          />
          <p class="small">{describeStage(load, language)}</p>
        </>
      ) : null}
    </section>
  );
}

/** Code for the next cell, with a button that copies it. */
function Snippet({ code }: { code: string }) {
  const { t } = useLanguage();
  return (
    <div class="snippet">
      <pre class="code">{code}</pre>
      <CopyButton name={t("copyCode")} text={code} />
    </div>
  );
}
