import type { PlainKey } from "../texts/language";
import type { DownloadState, HostPullView, HostSource } from "../wire";
import { useLanguage } from "./language";

const STATE: Partial<Record<DownloadState, PlainKey>> = {
  queued: "waiting",
  resolving: "waiting",
  verifying: "checking",
  ready: "stageReady",
  failed: "failed",
};
const SOURCE: Partial<Record<HostSource, PlainKey>> = {
  hub: "fromHub",
  "already there": "wasThere",
  "shared cache": "sharedCache",
};

/** The hosts of a pull to a cluster, behind a line that counts them. It is open where one has failed. */
export function HostRows({ hosts, name }: { hosts: HostPullView[]; name: string }) {
  const language = useLanguage();
  const { t, format } = language;
  const ready = hosts.filter(({ state }) => state === "ready").length;
  return hosts.length ? (
    <details class="small" aria-label={t("hostsOf", { name })} open={hosts.some(({ error }) => error)}>
      <summary>{t("ofHosts", { part: ready, count: hosts.length })}</summary>
      <ul>
        {hosts.map(({ host, state, source, peer, received, total, rate, error }) => {
          const stage = STATE[state];
          const from = source && SOURCE[source];
          return (
            <li key={host} class="line">
              <b>{host}</b>
              {[
                stage && t(stage),
                state === "ready" ? format.fileSize(total) : format.received(received, total),
                rate && format.rate(rate),
                from ? t(from) : peer && t("fromHost", { host: peer }),
              ].map((part, index) => part && <span key={index}>{part}</span>)}
              {error ? <span data-error>{language.error(error)}</span> : null}
            </li>
          );
        })}
      </ul>
    </details>
  ) : null;
}
