import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Store } from "../store";
import type { LoadView } from "../wire";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { useLanguage } from "./language";
import { NumberField } from "./NumberField";

interface TrialProps {
  store: Store;
  name: string;
  kind: NonNullable<LoadView["kind"]>;
}

/** Trying the loaded model: a conversation, a completion, or how similar two texts are. */
export function Trial({ store, name, kind }: TrialProps) {
  const { t } = useLanguage();
  const { error, state } = store.chat.value;
  return (
    <section class="trial" aria-label={t("tryOf", { name })}>
      {kind === "embedding" ? <Similarity store={store} /> : <Conversation store={store} kind={kind} />}
      {state === "waiting" ? <p class="fair">{t("waitingForModel")}</p> : null}
      {error ? <ErrorBox error={error} name={name} /> : null}
    </section>
  );
}

function Conversation({ store, kind }: { store: Store; kind: "chat" | "completion" }) {
  const { t, format } = useLanguage();
  const { messages, state, was_stopped, tokens_per_second, first_token_seconds } = store.chat.value;
  const draft = useSignal("");
  const system = useSignal("");
  const temperature = useSignal<number | null>(0.7);
  const log = useRef<HTMLDivElement>(null);
  const isBusy = state !== "idle";
  const isOff = store.isOff.value;
  const length = messages.at(-1)?.content.length;
  // The end stays in sight while the answer grows.
  useEffect(() => {
    log.current?.scrollTo({ top: log.current.scrollHeight });
  }, [messages.length, length]);
  const send = async () => {
    const text = draft.peek().trim();
    if (text === "" || isBusy || isOff) {
      return;
    }
    draft.value = "";
    const params = { text, system: system.peek().trim(), temperature: temperature.peek() };
    if (!(await store.ask("try", "try", params))) {
      draft.value ||= text;
    }
  };
  return (
    <>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls can be scrolled by keyboard */}
      <div class="log" role="log" aria-label={t("conversation")} tabIndex={0} ref={log} hidden={messages.length === 0}>
        {messages.map(({ role, content }, index) => (
          <p key={index} class={role}>
            <span class="hidden">{t(role === "user" ? "youSaid" : "modelSaid")}: </span>
            {content}
          </p>
        ))}
      </div>
      <form
        class="line prompt"
        onSubmit={(event) => {
          event.preventDefault();
          void send();
        }}
      >
        <textarea
          class="grow"
          rows={Math.min(6, draft.value.split("\n").length)}
          aria-label={t("message")}
          placeholder={t("message")}
          value={draft}
          disabled={isOff}
          onInput={({ currentTarget: { value } }) => {
            draft.value = value;
          }}
          onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
              event.preventDefault();
              void send();
            }
          }}
        />
        {isBusy ? (
          <Button data-first disabled={isOff} onClick={() => void store.ask("stop", "act_on_chat", { action: "stop" })}>
            {t("stop")}
          </Button>
        ) : (
          <Button tone="tonal" type="submit" data-first disabled={isOff}>
            {t("send")}
          </Button>
        )}
      </form>
      <div class="line small">
        {tokens_per_second === null ? null : <span>{t("speedNow", { speed: format.speed(tokens_per_second) })}</span>}
        {first_token_seconds === null ? null : (
          <span>{t("firstToken", { seconds: format.fixed(first_token_seconds, 2) })}</span>
        )}
        {was_stopped ? <span>{t("stopped")}</span> : null}
        <details class="grow">
          <summary>{t("settings")}</summary>
          <div class="filters options">
            <NumberField
              text={t("temperature")}
              min={0}
              max={2}
              step={0.1}
              value={temperature.value}
              onValue={(value) => {
                temperature.value = value;
              }}
            />
            {kind === "chat" ? (
              <label class="wide">
                <span>{t("systemPrompt")}</span>
                <textarea
                  rows={2}
                  aria-label={t("systemPrompt")}
                  value={system}
                  onInput={({ currentTarget: { value } }) => {
                    system.value = value;
                  }}
                />
              </label>
            ) : null}
          </div>
        </details>
        {messages.length > 0 && !isBusy ? (
          <Button
            tone="quiet"
            disabled={isOff}
            onClick={() => void store.ask("clear", "act_on_chat", { action: "clear" })}
          >
            {t("newConversation")}
          </Button>
        ) : null}
      </div>
    </>
  );
}

function Similarity({ store }: { store: Store }) {
  const { t, format } = useLanguage();
  const { similarity, state } = store.chat.value;
  const first = useSignal("");
  const second = useSignal("");
  const isOff = store.isOff.value || state !== "idle";
  return (
    <form
      class="line prompt"
      onSubmit={(event) => {
        event.preventDefault();
        void store.ask("compare", "compare", { first: first.peek(), second: second.peek() });
      }}
    >
      {([[first, "firstText"] as const, [second, "secondText"] as const] as const).map(([text, label]) => (
        <textarea
          key={label}
          class="grow"
          rows={2}
          required
          aria-label={t(label)}
          placeholder={t(label)}
          value={text}
          onInput={({ currentTarget: { value } }) => {
            text.value = value;
          }}
        />
      ))}
      <Button tone="tonal" type="submit" disabled={isOff}>
        {t("compare")}
      </Button>
      <p class="small" aria-live="polite">
        {similarity === null ? null : t("similarity", { value: format.fixed(similarity, 2) })}
      </p>
    </form>
  );
}
