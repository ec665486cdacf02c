import type { ComponentChildren } from "preact";
import type { Store, Tab } from "../store";
import type { PlainKey } from "../texts/language";
import { useLanguage } from "./language";

const TABS: [Tab, PlainKey][] = [
  ["discover", "discover"],
  ["library", "library"],
  ["downloads", "downloads"],
];

/** The tabs, with how much is in them. Arrow keys go from one to the next, as in any list of tabs. */
export function Tabs({ store }: { store: Store }) {
  const { t, format } = useLanguage();
  const counts: Record<Tab, number> = {
    discover: 0,
    library: store.library.value.models.length,
    downloads: store.openRows.value.length,
  };
  const open = (target: HTMLElement, index: number) => {
    const [tab] = TABS[(index + TABS.length) % TABS.length] ?? TABS[0] ?? [];
    if (tab) {
      store.open(tab);
      target.parentElement?.querySelector<HTMLElement>(`[data-tab=${tab}]`)?.focus();
    }
  };
  return (
    <div class="tabs" role="tablist" aria-label={t("modelBrowser")}>
      {TABS.map(([tab, name], index) => {
        const isOpen = store.tab.value === tab;
        const count = counts[tab];
        return (
          <button
            key={tab}
            type="button"
            role="tab"
            data-tab={tab}
            aria-selected={isOpen}
            data-count={count > 0 ? format.number(count) : undefined}
            tabIndex={isOpen ? 0 : -1}
            onClick={() => store.open(tab)}
            onKeyDown={(event) => {
              const rtl = getComputedStyle(event.currentTarget).direction === "rtl" ? -1 : 1;
              const to = { ArrowRight: index + rtl, ArrowLeft: index - rtl, Home: 0, End: -1 }[event.key];
              if (to !== undefined) {
                event.preventDefault();
                open(event.currentTarget, to);
              }
            }}
          >
            {t(name)}
          </button>
        );
      })}
    </div>
  );
}

/** What belongs to a tab: its controls, and below them what scrolls. */
export function TabPanel({
  name,
  bar,
  children,
}: {
  name: PlainKey;
  bar: ComponentChildren;
  children: ComponentChildren;
}) {
  const { t } = useLanguage();
  return (
    <div class="tab-panel" role="tabpanel" aria-label={t(name)}>
      {bar}
      {/* Takes the focus of what disappears from it. */}
      <div class="body" tabIndex={-1}>
        {children}
      </div>
    </div>
  );
}
