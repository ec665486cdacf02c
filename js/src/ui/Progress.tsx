interface ProgressProps {
  label: string;
  /** Whole percent, or `null` when the end is not known. */
  percent: number | null;
  text: string;
}

export function Progress({ label, percent, text }: ProgressProps) {
  return (
    <div
      class="track"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent ?? undefined}
      aria-valuetext={text}
    >
      <div
        class={percent === null ? "fill unknown" : "fill"}
        style={percent === null ? undefined : { transform: `scaleX(${percent / 100})` }}
      />
    </div>
  );
}
