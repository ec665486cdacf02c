// What JSX becomes in the bundle; esbuild imports it where it is needed.
export { Fragment, h } from "preact";
