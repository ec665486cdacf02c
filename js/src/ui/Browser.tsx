import { describeMemory } from "../describe";
import { endpointName } from "../links";
import type { Store } from "../store";
import { Account } from "./Account";
import { Banners } from "./Banners";
import { Cluster } from "./Cluster";
import { Icon } from "./icons";
import { Library } from "./Library";
import { LoadPanel } from "./LoadPanel";
import { LanguageContext, useLanguage } from "./language";
import { Queue } from "./Queue";
import { Results } from "./Results";
import { JobRows } from "./Rows";
import { SearchBar } from "./SearchBar";

import { TabPanel, Tabs } from "./Tabs";
import { TipArea } from "./Tip";

import { Toasts } from "./Toasts";

export function Browser({ store }: { store: Store }) {
  const language = store.language.value;
  return (
    <LanguageContext.Provider value={language}>
      <section
        class="deck"
        lang={language.tag}
        aria-label={language.t("modelBrowser")}
        data-connection={store.connection.state.value}
      >
        <TipArea>
          <Header store={store} />
          <Banners store={store} />
          <Tabs store={store} />
          {store.tab.value === "library" ? (
            <Library store={store} />
          ) : store.tab.value === "downloads" ? (
            <Queue store={store} />
          ) : (
            <TabPanel name="discover" bar={<SearchBar store={store} />}>
              <Cluster store={store} />
              <LoadPanel store={store} />
              <Downloads store={store} />
              <Results store={store} />
            </TabPanel>
          )}
          <Toasts store={store} />
        </TipArea>
      </section>
    </LanguageContext.Provider>
  );
}

function Header({ store }: { store: Store }) {
  const language = useLanguage();
  const { endpoint, is_default_endpoint, hardware } = store.view.value;
  return (
    <header class="header line small">
      <span class="brand">
        <Icon name="deck" />
        modeldeck
      </span>
      {endpoint ? (
        <span class="pill endpoint" data-tone={is_default_endpoint ? undefined : "accent"} title={endpoint}>
          <span class="hidden">{language.t("browsing")} </span>
          {endpointName(endpoint)}
        </span>
      ) : null}
      <Account store={store} />
      <span class="line memory">
        {hardware
          ? describeMemory(hardware, language).map(({ name, text, used }, index) => (
              <span key={index}>
                {used === null ? null : (
                  <span class="track" aria-hidden="true">
                    <span class="fill" style={{ transform: `scaleX(${used})` }} />
                  </span>
                )}
                {name} {text}
              </span>
            ))
          : null}
      </span>
    </header>
  );
}

/** Downloads that no card shows: of other sessions, other searches and folded cards. */
function Downloads({ store }: { store: Store }) {
  const { t } = useLanguage();
  const rows = store.strayRows.value;
  return rows.length === 0 ? null : (
    <section class="panel downloads stray" aria-label={t("downloads")}>
      <h2>{t("downloads")}</h2>
      <JobRows store={store} rows={rows} />
    </section>
  );
}
