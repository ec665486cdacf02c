import type { PlainKey } from "../texts/language";
import type { DownloadState, HostPullView, HostSource } from "../wire";
import { useLanguage } from "./language";

const STATE: Partial<Record<DownloadState, PlainKey>> = {
  queued: "waiting",
  resolving: "waiting",
  verifying: "checking",
  ready: "stageReady",
  paused: "paused",
  failed: "failed",
};
const SOURCE: Record<Exclude<HostSource, "peer">, PlainKey> = {
  hub: "fromHub",
  "already there": "wasThere",
  "shared cache": "sharedCache",
};

/** The hosts of a pull to a cluster, behind a line that counts them. It is open where one has failed. */
export function HostRows({ hosts, name }: { hosts: HostPullView[]; name: string }) {
  const language = useLanguage();
  const { t, format } = language;
  const ready = hosts.filter(({ state }) => state === "ready").length;
  return hosts.length === 0 ? null : (
    <details class="small" open={hosts.some(({ error }) => error)}>
      <summary>{t("hostsReady", { ready, count: hosts.length })}</summary>
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset is not a list */}
      <div role="group" aria-label={t("hostsOf", { name })}>
        <ul>
          {hosts.map(({ host, state, source, peer, received, total, rate, error }) => (
            <li key={host} class="line" data-state={state}>
              <b>{host}</b>
              {STATE[state] ? <span>{t(STATE[state])}</span> : null}
              {state === "ready" ? (
                <span>{format.fileSize(total)}</span>
              ) : received ? (
                <span>{format.received(received, total)}</span>
              ) : null}
              {rate === null ? null : <span>{format.rate(rate)}</span>}
              {source ? (
                <span>{source === "peer" ? t("fromHost", { host: peer ?? "" }) : t(SOURCE[source])}</span>
              ) : null}
              {error ? <span data-error>{language.error(error)}</span> : null}
            </li>
          ))}
        </ul>
      </div>
    </details>
  );
}
