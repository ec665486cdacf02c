import { useEffect, useRef } from "preact/hooks";
import type { Row } from "../row-table";
import type { Store } from "../store";
import type { EngineLimits } from "../wire";
import { Button } from "./Button";
import { Icon } from "./icons";
import { LoadPanel } from "./LoadPanel";
import { useLanguage } from "./language";
import { NumberField } from "./NumberField";
import { ambiguousKeys, JobRow, JobRows } from "./Rows";
import { TabPanel } from "./Tabs";

const MEGABYTE = 1e6;
const MAX_DOWNLOADS = 16;

/** The downloads in their order, what they may use together, and those that are done. */
export function Queue({ store }: { store: Store }) {
  const { t } = useLanguage();
  const rows = store.openRows.value;
  const history = store.historyRows.value;
  const isOff = store.isOff.value;
  const { limits } = store.view.value.engine;
  const states = rows.map(({ job }) => job.value?.actions ?? []);
  const all = (action: "pause" | "resume" | "dismiss") => void store.ask("downloads", "act_on_downloads", { action });
  const bar = (
    <div class="search line">
      {limits ? <Limits store={store} limits={limits} isOff={isOff} /> : null}
      <span class="grow" />
      <Button disabled={isOff || !states.some((actions) => actions.includes("pause"))} onClick={() => all("pause")}>
        {t("pauseAll")}
      </Button>
      <Button disabled={isOff || !states.some((actions) => actions.includes("resume"))} onClick={() => all("resume")}>
        {t("resumeAll")}
      </Button>
    </div>
  );
  return (
    <TabPanel name="downloads" bar={bar}>
      <LoadPanel store={store} />
      {rows.length === 0 ? (
        <p class="note small">{t("nothingToDownload")}</p>
      ) : (
        <OrderedRows store={store} rows={rows} />
      )}
      {history.length > 0 ? (
        <section class="panel downloads" aria-label={t("finished", { count: history.length })}>
          <div class="line">
            <h2 class="grow">{t("finished", { count: history.length })}</h2>
            <Button tone="quiet" disabled={isOff} onClick={() => all("dismiss")}>
              {t("dismiss")}
            </Button>
          </div>
          <JobRows store={store} rows={history} />
        </section>
      ) : null}
    </TabPanel>
  );
}

interface LimitsProps {
  store: Store;
  limits: EngineLimits;
  isOff: boolean;
}

/** The limits, which count for every program that uses this engine. */
function Limits({ store, limits, isOff }: LimitsProps) {
  const { t } = useLanguage();
  const { max_active_jobs, bandwidth_bytes_per_second } = limits;
  const set = (changes: Partial<EngineLimits>) =>
    void store.ask("limits", "set_limits", { max_active_jobs, bandwidth_bytes_per_second, ...changes });
  return (
    <>
      <NumberField
        text={t("downloadsAtOnce")}
        min={1}
        max={MAX_DOWNLOADS}
        required
        disabled={isOff}
        value={max_active_jobs}
        onValue={(value) => set({ max_active_jobs: value ?? 1 })}
      />
      <NumberField
        text={t("bandwidthLimit")}
        min={0.1}
        step="any"
        placeholder="∞"
        disabled={isOff}
        value={bandwidth_bytes_per_second === null ? null : bandwidth_bytes_per_second / MEGABYTE}
        onValue={(value) => set({ bandwidth_bytes_per_second: value === null ? null : Math.round(value * MEGABYTE) })}
      />
      <span class="small">MB/s</span>
    </>
  );
}

/** Rows of the queue with buttons that move them. A row that moves takes the focus of its button along. */
function OrderedRows({ store, rows }: { store: Store; rows: Row[] }) {
  const { t } = useLanguage();
  const list = useRef<HTMLUListElement>(null);
  const moved = useRef<string | null>(null);
  const order = rows.map(({ key }) => key).join("\n\n");
  useEffect(() => {
    const button = [...(list.current?.querySelectorAll<HTMLElement>("[data-move]") ?? [])].find(
      ({ dataset }) => dataset.move === moved.current,
    );
    moved.current = null;
    button?.focus({ preventScroll: true });
  }, [order]);
  const ambiguous = ambiguousKeys(rows.map(({ key, job, repoId }) => [key, `${job.value?.label} ${repoId}`]));
  const last = Math.max(...rows.map(({ job }) => job.value?.queue_position ?? -1));
  return (
    <ul ref={list}>
      {rows.map((row) => {
        const place = row.job.value?.queue_position ?? null;
        return (
          <JobRow
            key={row.key}
            store={store}
            row={row}
            isAmbiguous={ambiguous.has(row.key)}
            beside={(name) =>
              place === null || last === 0
                ? null
                : (
                    [["move_up", "moveUp", "up", 0] as const, ["move_down", "moveDown", "down", last] as const] as const
                  ).map(([action, text, icon, end]) => (
                    <Button
                      key={action}
                      tone="quiet square"
                      name={`${t(text)} ${name}`}
                      title={t(text)}
                      data-move={`${row.key} ${action}`}
                      aria-disabled={place === end}
                      disabled={store.isOff.value}
                      onClick={() => {
                        if (place !== end) {
                          moved.current = `${row.key} ${action}`;
                          store.act(row, action);
                        }
                      }}
                    >
                      <Icon name={icon} />
                    </Button>
                  ))
            }
          />
        );
      })}
    </ul>
  );
}
