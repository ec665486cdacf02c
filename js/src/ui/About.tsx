import type { ComponentChildren } from "preact";
import { repoPage, safeLink } from "../links";
import type { Store } from "../store";
import type { PlainKey } from "../texts/language";
import type { BaseModelRelation, LicenceKind, SummaryView } from "../wire";
import { Button } from "./Button";
import { CardText } from "./CardText";
import { ErrorBox } from "./ErrorBox";
import { Icon } from "./icons";
import { Link } from "./Link";
import { useLanguage } from "./language";

const LANGUAGES_SHOWN = 8;

const LICENCES = {
  permissive: "licencePermissive",
  share_alike: "licenceShareAlike",
  non_commercial: "licenceNonCommercial",
  own_terms: "licenceOwnTerms",
} as const satisfies Record<LicenceKind, string>;

const RELATIONS = {
  quantized: "madeByQuantizing",
  finetune: "madeByFineTuning",
  adapter: "madeAsAdapter",
  merge: "madeByMerging",
} as const satisfies Record<BaseModelRelation, string>;

const TASKS: Record<string, PlainKey> = {
  "text-generation": "taskTextGeneration",
  "feature-extraction": "taskEmbedding",
  "sentence-similarity": "taskEmbedding",
  "image-text-to-text": "taskVision",
};

/** What the Hub tells about a model, and its model card. */
export function About({ store, model }: { store: Store; model: SummaryView }) {
  const { t, parts } = useLanguage();
  const repoId = model.repo_id;
  const name = t("aboutRepo", { repo: repoId });
  const card = store.about(repoId).value;
  const isOpen = card !== undefined;
  return (
    <section class="about" aria-label={name}>
      <Details store={store} model={model} />
      <Button
        tone="quiet disclose"
        title={t("modelCard")}
        aria-expanded={isOpen}
        disabled={store.isOff.value}
        onClick={() => store.setAbout(repoId, !isOpen)}
      >
        <span>{parts("aboutRepo", { repo: <span class="hidden">{repoId}</span> })}</span>
        <Icon name="chevron" />
      </Button>
      {card?.state === "failed" && card.error ? (
        <ErrorBox
          error={card.error}
          name={name}
          isOff={store.isOff.value}
          onRetry={() => store.setAbout(repoId, true)}
        />
      ) : null}
      {card?.state === "opening" ? (
        <div aria-busy="true">
          <p class="note small">{t("readingCard")}</p>
          <div class="skeleton" />
        </div>
      ) : null}
      {card?.state === "open" ? (
        <>
          <CardText tokens={card.tokens} />
          {card.tokens.length === 0 ? <p class="note small">{t("emptyCard")}</p> : null}
          {card.is_cut ? <Rest store={store} repoId={repoId} /> : null}
        </>
      ) : null}
    </section>
  );
}

/** The way to what does not fit here. */
function Rest({ store, repoId }: { store: Store; repoId: string }) {
  const { t } = useLanguage();
  const url = repoPage(store.view.value.endpoint, repoId);
  return <p class="note small">{url ? <Link url={url}>{t("restOfCard")}</Link> : t("restOfCard")}</p>;
}

function Details({ store, model }: { store: Store; model: SummaryView }) {
  const { t, parts, languageName } = useLanguage();
  const { license, license_kind, base_model, base_model_relation, languages, pipeline_tag } = model;
  const url = safeLink(model.license_url);
  const { endpoint } = store.view.value;
  const base = base_model && endpoint.startsWith("https:") ? repoPage(endpoint, base_model) : null;
  const rest = languages.length - LANGUAGES_SHOWN;
  const names = languages.slice(0, LANGUAGES_SHOWN).map(languageName).join(", ");
  const task = pipeline_tag && (TASKS[pipeline_tag] ? t(TASKS[pipeline_tag]) : pipeline_tag);
  const licence: ComponentChildren = url ? <Link url={url}>{license}</Link> : license;
  const original: ComponentChildren = base ? <Link url={base}>{base_model}</Link> : base_model;
  const relation = base_model_relation ? RELATIONS[base_model_relation] : "madeFrom";
  const details: [PlainKey, ComponentChildren][] = [
    ["factLicence", license && license_kind ? parts(LICENCES[license_kind], { licence }) : t("licenceUnknown")],
    ["baseModel", base_model && parts(relation, { model: original })],
    ["languages", names && (rest > 0 ? t("andMore", { names, count: rest }) : names)],
    ["filterTask", task],
  ];
  return (
    <dl class="details small">
      {details.map(([name, value]) =>
        value ? (
          <div key={name}>
            <dt>{t(name)}</dt>
            <dd>{value}</dd>
          </div>
        ) : null,
      )}
    </dl>
  );
}
