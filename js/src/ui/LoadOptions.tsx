import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { describeFit } from "../describe";
import type { Row } from "../row-table";
import type { Store } from "../store";
import { EMPTY_STATE, type KVType, type LoadChoices } from "../wire";
import { Button } from "./Button";
import { CopyCode } from "./CopyButton";
import { useLanguage } from "./language";
import { NumberField } from "./NumberField";

interface LoadOptionsProps {
  store: Store;
  row: Row;
  name: string;
  commitHash?: string | null | undefined;
  canLoad: boolean;
}

const KV_TYPES: KVType[] = ["f16", "q8_0", "q4_0"];

/** How to load a model: each choice with the value that would be taken, and the memory that they make. */
export function LoadOptions({ store, row, name, commitHash = null, canLoad }: LoadOptionsProps) {
  const language = useLanguage();
  const { t } = language;
  const choices = useSignal(EMPTY_STATE.plan.choices);
  const ask = () => void store.askPlan(row, commitHash, choices.peek());
  useEffect(ask, []);
  const choose = (change: Partial<LoadChoices>) => {
    choices.value = { ...choices.peek(), ...change };
    ask();
  };
  // Other options may be open, whose plan comes in the place of this one.
  const plan = useRef(EMPTY_STATE.plan);
  plan.current = store.planOf(row, commitHash) ?? plan.current;
  const { taken, fit, code, error, max_gpu_layers, max_threads } = plan.current;
  const isOff = store.isOff.value;

  const numeric = (field: "n_ctx" | "n_gpu_layers" | "n_threads", text: string, min: number, max?: number | null) => (
    <NumberField
      text={text}
      min={min}
      max={max ?? undefined}
      placeholder={`${t("automatic")}${taken?.[field] == null ? "" : ` (${taken[field]})`}`}
      disabled={isOff}
      value={choices.value[field]}
      onValue={(value) => choose({ [field]: value })}
    />
  );
  const select = (
    text: string,
    value: string,
    known: string | null,
    options: string[],
    onValue: (value: string) => void,
  ) => (
    <label>
      <span>{text}</span>
      <select
        aria-label={text}
        disabled={isOff}
        value={value}
        onChange={({ currentTarget }) => onValue(currentTarget.value)}
      >
        {["", ...options].map((option) => (
          <option key={option} value={option}>
            {option || `${t("automatic")}${known ? ` (${known})` : ""}`}
          </option>
        ))}
      </select>
    </label>
  );
  const [on, off] = [t("on"), t("off")];
  const flash = (is: boolean | null | undefined) => (is == null ? "" : is ? on : off);

  return (
    <form>
      <fieldset class="filters options" aria-label={t("loadOptionsOf", { name })}>
        {numeric("n_ctx", t("contextLength"), 1)}
        {max_gpu_layers === null ? null : numeric("n_gpu_layers", t("gpuLayersName"), 0, max_gpu_layers)}
        {numeric("n_threads", t("threads"), 1, max_threads)}
        {select(t("flashAttention"), flash(choices.value.flash_attn), flash(taken?.flash_attn), [on, off], (value) =>
          choose({ flash_attn: value === "" ? null : value === on }),
        )}
        {select(t("kvType"), choices.value.kv_type ?? "", taken?.kv_type ?? null, KV_TYPES, (value) =>
          choose({ kv_type: (value || null) as KVType | null }),
        )}
        <div class="line wide">
          <p class="grow small" aria-live="polite" data-error={error ? "" : undefined}>
            {error ? language.said("errors", error.code, error.message) : fit ? describeFit(fit, language) : "…"}
          </p>
          <Button
            tone="filled"
            name={t("loadWithOptions", { name })}
            disabled={isOff || !canLoad || error !== null || fit?.verdict === "too_large"}
            onClick={({ currentTarget: { form } }) =>
              form?.reportValidity() && store.act(row, "load", { commit_hash: commitHash, choices: choices.peek() })
            }
          >
            {t("load")}
          </Button>
        </div>
        {code ? <CopyCode name={name} code={code} /> : null}
      </fieldset>
    </form>
  );
}
