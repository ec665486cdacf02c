import { useSignal } from "@preact/signals";
import type { Store } from "../store";
import type { ErrorInfo, MapView } from "../wire";
import { Button } from "./Button";
import { ErrorBox } from "./ErrorBox";
import { useLanguage } from "./language";
import { Progress } from "./Progress";

/** The cluster that models go to: how large it is, and which hosts cannot be used. */
export function Cluster({ store }: { store: Store }) {
  const { t } = useLanguage();
  const dismissed = useSignal<ErrorInfo | null>(null);
  const { is_used, host_count, unusable, maps, error } = store.cluster.value;
  return is_used ? (
    <section class="panel" aria-label={t("cluster")}>
      <div class="line small">
        <h2>{t("cluster")}</h2>
        {host_count === null ? null : (
          <span>{t("ofHosts", { part: host_count - unusable.length, count: host_count })}</span>
        )}
      </div>
      {unusable.map(({ host, problem }) => (
        <p key={host} class="small">
          <b>{host}</b> <span lang="en">{problem}</span>
        </p>
      ))}
      {maps.map((running) => (
        <Prompts key={running.job_id} store={store} running={running} />
      ))}
      {error && error !== dismissed.value ? (
        <ErrorBox
          error={error}
          name={t("cluster")}
          onDismiss={() => {
            dismissed.value = error;
          }}
        />
      ) : null}
    </section>
  ) : null;
}

/** Prompts that a fleet of this client answers. */
function Prompts({ store, running }: { store: Store; running: MapView }) {
  const { t, format } = useLanguage();
  const { job_id, target, done, failed, total, hosts } = running;
  const name = t("promptsOf", { target });
  const text = t("promptsDone", { done, count: total, failed });
  return (
    <>
      <div class="line">
        <p class="grow">
          {name} <span class="muted">{text}</span>
        </p>
        <Button
          name={`${t("cancel")} ${name}`}
          disabled={store.isOff.value}
          onClick={() => void store.ask(job_id, "act", { job_id, action: "cancel" })}
        >
          {t("cancel")}
        </Button>
      </div>
      <Progress label={name} percent={Math.floor((100 * done) / total)} text={text} />
      <p class="line small">
        {hosts.map(({ host, tokens_per_second }) => (
          <span key={host}>
            <b>{host}</b> {tokens_per_second && t("speedNow", { speed: format.speed(tokens_per_second) })}
          </span>
        ))}
      </p>
    </>
  );
}
