import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Row } from "../row-table";
import type { Store } from "../store";
import type { Action, EngineLimits } from "../wire";
import { Button } from "./Button";
import { Cluster } from "./Cluster";
import { Icon } from "./icons";
import { LoadPanel } from "./LoadPanel";
import { useLanguage } from "./language";
import { NumberField } from "./NumberField";
import { ambiguousKeys, JobRow, JobRows } from "./Rows";
import { TabPanel } from "./Tabs";

const MEGABYTE = 1e6;
const MAX_DOWNLOADS = 16;

type Limits = Pick<EngineLimits, "max_active_jobs" | "bandwidth_bytes_per_second">;

/** The downloads in their order, what they may use together, and those that are done. */
export function Queue({ store }: { store: Store }) {
  const { t } = useLanguage();
  const rows = store.openRows.value;
  const history = store.historyRows.value;
  const isOff = store.isOff.value;
  // What was set stays set while Python has not answered: another limit may be set meanwhile.
  const asked = store.asked("limits").value?.params as Limits | undefined;
  const limits = asked ?? store.view.value.engine.limits;
  const all = (action: "pause" | "resume" | "dismiss") => void store.ask("downloads", "act_on_downloads", { action });
  const bar = (
    <div class="search line">
      {limits ? <LimitFields store={store} limits={limits} isOff={isOff} /> : null}
      <span class="grow" />
      {ALL.map(([action, text]) => (
        <Button
          key={action}
          // Not disabled: it keeps the focus.
          aria-disabled={!rows.some(({ job }) => job.value?.actions.includes(action))}
          disabled={isOff}
          onClick={() => all(action)}
        >
          {t(text)}
        </Button>
      ))}
    </div>
  );
  return (
    <TabPanel name="downloads" bar={bar}>
      <Cluster store={store} />
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
  limits: Limits;
  isOff: boolean;
}

/** The limits, which count for every program that uses this engine. */
function LimitFields({ store, limits, isOff }: LimitsProps) {
  const { t } = useLanguage();
  const { max_active_jobs, bandwidth_bytes_per_second } = limits;
  const set = (changes: Partial<Limits>) =>
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

const ALL = [
  ["pause", "pauseAll"],
  ["resume", "resumeAll"],
] as const;

const MOVES = [
  ["move_up", "moveUp", "up", "ArrowUp", "↑"],
  ["move_down", "moveDown", "down", "ArrowDown", "↓"],
] as const;

/** Rows of the queue that buttons and keys move. What has the focus in a row that moves keeps it, and the place is said. */
function OrderedRows({ store, rows }: { store: Store; rows: Row[] }) {
  const { t } = useLanguage();
  const moved = useRef<[Row, HTMLElement] | null>(null);
  const said = useSignal("");
  const order = rows.map(({ key }) => key).join("\n\n");
  const last = Math.max(...rows.map(({ job }) => job.value?.queue_position ?? -1));
  useEffect(() => {
    const [row, element] = moved.current ?? [];
    moved.current = null;
    element?.focus({ preventScroll: true });
    const job = row?.job.peek();
    if (job?.queue_position != null) {
      const name = t("variantOf", { label: job.label, repo: job.repo_id });
      said.value = t("movedTo", { name, place: job.queue_position + 1, count: last + 1 });
    }
  }, [order]);
  const ambiguous = ambiguousKeys(rows.map(({ key, job, repoId }) => [key, `${job.value?.label} ${repoId}`]));
  const isEnd = ({ job }: Row, action: Action) => job.value?.queue_position === (action === "move_up" ? 0 : last);
  const move = (row: Row | undefined, action: Action, element: HTMLElement) => {
    if (row?.job.value?.queue_position != null && !isEnd(row, action)) {
      moved.current = [row, element];
      store.act(row, action);
    }
  };
  return (
    <>
      <ul
        onKeyDown={(event) => {
          const [action] = MOVES.find(([, , , key]) => event.altKey && key === event.key) ?? [];
          const target = event.target as HTMLElement;
          if (action && !store.isOff.value) {
            event.preventDefault();
            event.stopPropagation();
            move(rows[[...event.currentTarget.children].indexOf(target.closest("li") as Element)], action, target);
          }
        }}
      >
        {rows.map((row) => (
          <JobRow
            key={row.key}
            store={store}
            row={row}
            isAmbiguous={ambiguous.has(row.key)}
            beside={(name) =>
              row.job.value?.queue_position == null || last === 0
                ? null
                : MOVES.map(([action, text, icon, key, arrow]) => (
                    <Button
                      key={action}
                      tone="quiet square"
                      name={`${t(text)} ${name}`}
                      title={`${t(text)} (Alt+${arrow})`}
                      aria-keyshortcuts={`Alt+${key}`}
                      aria-disabled={isEnd(row, action)}
                      disabled={store.isOff.value}
                      onClick={({ currentTarget }) => move(row, action, currentTarget)}
                    >
                      <Icon name={icon} />
                    </Button>
                  ))
            }
          />
        ))}
      </ul>
      <p class="hidden" role="status">
        {said}
      </p>
    </>
  );
}
