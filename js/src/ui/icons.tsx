// Line icons on a 16-pixel grid, in the text's colour and without a name for assistive technology. They are masks, not
// elements of their own: a thousand inline SVGs make scrolling a long list twice as slow.

const PATHS = {
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zM10.6 10.6 14 14",
  filter: "M2.5 4h11M4.5 8h7M6.5 12h3",
  chevron: "M6 4l4 4-4 4",
  download: "M8 2.5v7.5M4.8 7 8 10.2 11.2 7M3 13.5h10",
  heart: "M8 13.2S2.5 10 2.5 6.1A2.9 2.9 0 0 1 8 4.9a2.9 2.9 0 0 1 5.5 1.2C13.5 10 8 13.2 8 13.2z",
  close: "M4 4l8 8M12 4l-8 8",
  copy: "M5.5 5.5h7v8h-7zM3.5 10.5v-8h7",
  external: "M6.5 3.5h-3v9h9v-3M9 2.5h4.5V7M13.2 2.8 7.5 8.5",
  check: "M3.5 8.5 6.5 11.5 12.5 4.5",
  part: "M8 2.5a5.5 5.5 0 1 0 0 11zM8 2.5a5.5 5.5 0 0 1 0 11",
  unknown: "M6 6a2 2 0 1 1 2.8 1.9c-.6.3-.8.7-.8 1.4M8 12v.2",
  warning: "M8 2.5 14.5 13.5h-13zM8 6.8v3M8 11.6v.2",
  info: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 7.4v3.4M8 5v.2",
  star: "M8 2.2l1.7 3.6 3.9.5-2.9 2.7.8 3.9L8 11l-3.5 1.9.8-3.9L2.4 6.3l3.9-.5z",
  tune: "M2.5 5h6M12 5h1.5M10 3v4M2.5 11H4M8 11h5.5M6 9v4",
  up: "M4 9.5 8 5.5l4 4",
  down: "M4 6.5l4 4 4-4",
  lock: "M4 7.5h8v6H4zM5.5 7.5V5.2a2.5 2.5 0 0 1 5 0v2.3",
  deck: "M2.5 6.5 8 3.5l5.5 3L8 9.5zM2.5 9.5 8 12.5l5.5-3",
} as const;

export type IconName = keyof typeof PATHS;

const SVG = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='none' stroke='%23000'";
const STROKE = "stroke-width='1.4' stroke-linecap='round' stroke-linejoin='round'";

/** The rules that give each icon its shape. */
export const iconStyles = Object.entries(PATHS)
  .map(
    ([name, path]) => `.icon-${name}{mask-image:url("data:image/svg+xml,${SVG} ${STROKE}><path d='${path}'/></svg>")}`,
  )
  .join("");

export function Icon({ name }: { name: IconName }) {
  return <span class={`icon icon-${name}`} />;
}
