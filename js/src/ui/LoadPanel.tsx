import { useSignal } from "@preact/signals";
import { copy } from "../clipboard";
import { describeStage } from "../describe";
import type { Store } from "../store";
import { Actions } from "./Actions";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { Icon } from "./icons";
import { Progress } from "./Progress";

const CHAT = `browser.llm.create_chat_completion(
    messages=[{"role": "user", "content": "Hello!"}]
)`;
const EMBEDDING = `browser.llm.create_embedding("Hello!")`;

/** The model that is being loaded, is loaded, or could not be. */
export function LoadPanel({ store }: { store: Store }) {
  const load = store.load.value;
  const { state, repo_id, variant_id } = load;
  if (state === "none" || repo_id === null || variant_id === null) {
    return null;
  }
  const row = store.row(repo_id, variant_id);
  const name = `${load.label ?? variant_id} of ${repo_id}`;
  // The row on its card shows the buttons and the error already.
  const isShown = store.shownKeys.value.has(row.key);
  const error = isShown ? null : (row.error.value ?? store.loadError.value);
  if (state === "failed" && !error) {
    return null;
  }
  const isReady = state === "ready";
  const title = { loading: "Loading", ready: "Loaded", failed: "Could not load" }[state];
  return (
    <section class="panel" aria-label="Model in use" data-state={state}>
      <div class="line">
        <p class="grow">
          {title} <b>{name}</b>
          {isReady && load.n_ctx ? <span class="muted">, context of {load.n_ctx} tokens</span> : null}
        </p>
        {isShown || store.pickKeys.value.has(row.key) ? null : (
          <Actions store={store} row={row} name={name} actions={load.actions} />
        )}
      </div>
      {error ? (
        <ErrorBox
          error={error}
          name={name}
          isOff={!store.connection.isUsable.value}
          onRetry={() => store.act(row, "load")}
          onDismiss={() => store.dismissError(row)}
        />
      ) : null}
      {isReady ? (
        <Snippet code={store.repo(repo_id).value?.model?.is_embedding ? EMBEDDING : CHAT} />
      ) : state === "loading" ? (
        <>
          <Progress
            label={`Loading of ${name}`}
            percent={load.fraction === null ? null : Math.floor(load.fraction * 100)}
            text={describeStage(load)}
          />
          <p class="small">{describeStage(load)}</p>
        </>
      ) : null}
    </section>
  );
}

/** Code for the next cell, with a button that copies it. */
function Snippet({ code }: { code: string }) {
  const outcome = useSignal<"" | "Copied" | "Copy failed">("");
  return (
    <div class="snippet">
      <pre class="code">{code}</pre>
      <Button
        name="Copy the code"
        onClick={async () => {
          outcome.value = (await copy(code)) ? "Copied" : "Copy failed";
          setTimeout(() => {
            outcome.value = "";
          }, 2000);
        }}
      >
        <Icon name={outcome.value === "Copied" ? "check" : "copy"} />
        {outcome.value || "Copy"}
      </Button>
    </div>
  );
}
