import { useSignal } from "@preact/signals";
import { copy } from "../clipboard";
import { describeStage } from "../describe";
import type { Store } from "../store";
import { Actions } from "./Actions";
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
  const { repo_id, variant_id, label } = load;
  if (load.state === "none" || repo_id === null || variant_id === null) {
    return null;
  }
  const row = store.row(repo_id, variant_id);
  const name = `${label ?? variant_id} of ${repo_id}`;
  // What the row already offers is not offered twice.
  const isShown = store.shownKeys.value.has(row.key);
  if (load.state === "failed") {
    const error = isShown ? null : store.loadError.value;
    return error ? (
      <section class="panel" aria-label="Loading failed">
        <p>
          Could not load <b>{name}</b>
        </p>
        <ErrorBox error={error} onDismiss={() => store.dismissError(row)} dismissLabel={`Dismiss the error of ${name}`}>
          <button type="button" class="button tonal" aria-label={`Load ${name}`} onClick={() => store.act(row, "load")}>
            Retry
          </button>
        </ErrorBox>
      </section>
    ) : null;
  }
  const isReady = load.state === "ready";
  return (
    <section class="panel" aria-label={isReady ? "Loaded model" : "Loading a model"} data-state={load.state}>
      <div class="line panel-head">
        <p>
          {isReady ? <Icon name="check" /> : null}
          <span>
            {isReady ? "Loaded" : "Loading"} <b>{name}</b>
            {isReady && load.n_ctx ? <span class="muted"> · context of {load.n_ctx} tokens</span> : null}
          </span>
        </p>
        {isShown ? null : (
          <Actions store={store} row={row} name={name} actions={[isReady ? "unload" : "cancel_load"]} size={null} />
        )}
      </div>
      {isReady ? (
        <Snippet code={store.repo(repo_id).value?.model?.is_embedding ? EMBEDDING : CHAT} />
      ) : (
        <>
          <Progress
            label={`Loading of ${name}`}
            percent={load.fraction === null ? null : Math.floor(load.fraction * 100)}
            text={describeStage(load)}
          />
          <p class="small">{describeStage(load)}</p>
        </>
      )}
    </section>
  );
}

/** Code for the next cell, with a button that copies it. */
function Snippet({ code }: { code: string }) {
  const outcome = useSignal<"" | "Copied" | "Select and copy it">("");
  return (
    <div class="snippet">
      <pre class="code">
        <code>{code}</code>
      </pre>
      <button
        type="button"
        class="button"
        aria-label="Copy the code"
        onClick={async () => {
          outcome.value = (await copy(code)) ? "Copied" : "Select and copy it";
          setTimeout(() => {
            outcome.value = "";
          }, 2000);
        }}
      >
        <Icon name={outcome.value === "Copied" ? "check" : "copy"} />
        {outcome.value || "Copy"}
      </button>
    </div>
  );
}
