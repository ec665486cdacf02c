import type { Signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { chipsOf, LANGUAGES, LICENCES, NO_FILTERS, QUANTIZATIONS, SIZES, sizeName, TASKS } from "../filters";
import type { Store } from "../store";
import type { PlainKey } from "../texts/language";
import type { FiltersView } from "../wire";
import { Button } from "./Button";
import { Icon } from "./icons";
import { useLanguage } from "./language";
import { useTyped } from "./typed";

/** Everything that the results can be filtered by. */
export function Filters({ store }: { store: Store }) {
  const language = useLanguage();
  const { t } = language;
  const { filters } = store.choices.value;
  const isOff = store.isOff.value;
  const change = (changes: Partial<FiltersView>) => store.refine({ filters: { ...filters, ...changes } });
  const { min_parameters, max_parameters } = filters;
  const group = useRef<HTMLFieldSetElement>(null);
  useEffect(() => group.current?.querySelector("select")?.focus(), []);
  return (
    <fieldset ref={group} class="filters" aria-label={t("filters")}>
      <Choice
        name="filterSize"
        isOff={isOff}
        value={sizeKey([min_parameters, max_parameters])}
        none={sizeKey([null, null])}
        choices={SIZES.map((size) => [sizeKey(size), sizeName(...size, language)])}
        onChange={(value) => {
          const [min, max] = SIZES.find((size) => sizeKey(size) === value) ?? [null, null];
          change({ min_parameters: min, max_parameters: max });
        }}
      />
      <Choice
        name="filterTask"
        isOff={isOff}
        value={filters.task}
        choices={Object.entries(TASKS).map(([task, key]) => [task, t(key)])}
        onChange={(task) => change({ task: task || null })}
      />
      <Choice
        name="factLicence"
        isOff={isOff}
        value={filters.license}
        choices={LICENCES.map((license) => [license, license])}
        onChange={(license) => change({ license: license || null })}
      />
      <Choice
        name="filterLanguage"
        isOff={isOff}
        value={filters.language}
        choices={LANGUAGES.map((code) => [code, language.languageName(code)])}
        onChange={(code) => change({ language: code || null })}
      />
      <label>
        <span>{t("filterAuthor")}</span>
        <input
          type="text"
          aria-label={t("filterAuthor")}
          placeholder={t("filterAuthorHelp")}
          autocomplete="off"
          spellcheck={false}
          maxLength={96}
          ref={useTyped(filters.author)}
          disabled={isOff}
          onChange={(event) => change({ author: event.currentTarget.value.trim() || null })}
        />
      </label>
      <Check isOn={filters.is_open} isOff={isOff} onChange={(is_open) => change({ is_open })}>
        {t("notGated")}
      </Check>
      <p class="small">{t("filteredHere")}</p>
      <Choice
        name="filterQuantization"
        isOff={isOff}
        value={filters.quantization}
        choices={QUANTIZATIONS.map((label) => [label, label])}
        onChange={(quantization) => change({ quantization: quantization || null })}
      />
      <Switch of={store.fitsOnly}>{t("fitsHere")}</Switch>
      <Switch of={store.localOnly}>{t("onThisMachine")}</Switch>
    </fieldset>
  );
}

function sizeKey([min, max]: readonly [number | null, number | null]): string {
  return `${min ?? ""}-${max ?? ""}`;
}

interface ChoiceProps {
  name: PlainKey;
  isOff: boolean;
  value: string | null;
  /** The value that means no filter. */
  none?: string;
  choices: [value: string, text: string][];
  onChange: (value: string) => void;
}

function Choice({ name, isOff, value, none = "", choices, onChange }: ChoiceProps) {
  const { t } = useLanguage();
  const chosen = value ?? none;
  const isListed = chosen === none || choices.some(([each]) => each === chosen);
  return (
    <label>
      <span>{t(name)}</span>
      <select
        aria-label={t(name)}
        value={chosen}
        disabled={isOff}
        onChange={(event) => onChange(event.currentTarget.value)}
      >
        <option value={none}>{t("filterAny")}</option>
        {isListed ? null : <option value={chosen}>{chosen}</option>}
        {choices.map(([each, text]) => (
          <option key={each} value={each}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

interface CheckProps {
  isOn: boolean;
  isOff?: boolean;
  help?: string;
  onChange: (isOn: boolean) => void;
  children: ComponentChildren;
}

function Check({ isOn, isOff = false, help, onChange, children }: CheckProps) {
  return (
    <label title={help}>
      <input
        type="checkbox"
        checked={isOn}
        disabled={isOff}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
      <span>{children}</span>
    </label>
  );
}

interface SwitchProps {
  of: Signal<boolean>;
  help?: string;
  children: ComponentChildren;
}

/** A checkbox for a choice of the page itself. */
export function Switch({ of, help, children }: SwitchProps) {
  return (
    <Check
      isOn={of.value}
      {...(help ? { help } : {})}
      onChange={(isOn) => {
        of.value = isOn;
      }}
    >
      {children}
    </Check>
  );
}

/** The filters that are on, each with a button that takes it off. */
export function Chips({ store }: { store: Store }) {
  const language = useLanguage();
  const { t } = language;
  const isOff = store.isOff.value;
  const chips = chipsOf(store.choices.value.filters, language).map(({ name, rest }) => ({
    name,
    remove: () => store.refine({ filters: rest }),
  }));
  const here: [Signal<boolean>, PlainKey][] = [
    [store.fitsOnly, "fitsHere"],
    [store.localOnly, "onThisMachine"],
  ];
  for (const [choice, key] of here) {
    if (choice.value) {
      const remove = () => {
        choice.value = false;
      };
      chips.push({ name: t(key), remove });
    }
  }
  if (chips.length === 0) {
    return null;
  }
  return (
    <ul class="chips line" aria-label={t("activeFilters")}>
      {chips.map(({ name, remove }) => (
        <li key={name}>
          <Button tone="chip" name={t("removeFilter", { name })} disabled={isOff} onClick={remove}>
            {name}
            <Icon name="close" />
          </Button>
        </li>
      ))}
      {chips.length > 1 ? (
        <li>
          <Button
            tone="link"
            disabled={isOff}
            onClick={() => {
              store.fitsOnly.value = false;
              store.localOnly.value = false;
              store.refine({ filters: NO_FILTERS });
            }}
          >
            {t("clearFilters")}
          </Button>
        </li>
      ) : null}
    </ul>
  );
}

/** The last searches, while nothing is searched for. */
export function RecentSearches({ store, onChoose }: { store: Store; onChoose: (text: string) => void }) {
  const { t } = useLanguage();
  const recent = store.recentSearches.value;
  if (recent.length === 0) {
    return null;
  }
  return (
    <ul class="chips line" aria-label={t("recentSearches")}>
      {recent.map((text) => (
        <li key={text}>
          <Button tone="chip" name={t("searchFor", { text })} onClick={() => onChoose(text)}>
            <Icon name="search" />
            {text}
          </Button>
        </li>
      ))}
    </ul>
  );
}
