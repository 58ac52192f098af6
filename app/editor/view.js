// What the parts on the screen share.
import { createElement, htm, useSyncExternalStore } from "./vendor/parts.js";

/** Markup without a build step. Text in it is text: React never reads it as HTML. */
export const html = htm.bind((type, props, ...children) => {
  if (typeof type === "string" && props && "class" in props) {
    const { class: className, ...rest } = props;
    props = { ...rest, className };
  }
  return createElement(type, props, ...children);
});

/** A part of the editor's state; the component is drawn again when it changes. */
export const useEditor = (editor, choose) => useSyncExternalStore(editor.subscribe, () => choose(editor.state));

// Ids on the canvas: React Flow puts them into selectors, and a file may name a node anything.
export const cardId = (id) => `n${encodeURIComponent(id)}`;
export const frameId = (id) => `g${encodeURIComponent(id)}`;
export const idOf = (flowId) => decodeURIComponent(flowId.slice(1));
export const isFrame = (flowId) => flowId.startsWith("g");

/** The colour of a kind of node, by its category. */
export const categoryColour = (category) =>
  ({ Model: "#8b6bd9", Data: "#c9922f", Rollout: "#2f9e8f", Training: "#d9603b", Study: "#7d8f3f", Look: "#3f8f4f", Pictures: "#4a9fe0", Notes: "#a8946a" })[category] ?? "#8a8f93";

const STROKES = {
  undo: "M9 14 4 9l5-5M4 9h10a6 6 0 0 1 0 12h-3",
  redo: "m15 14 5-5-5-5M20 9H10a6 6 0 0 0 0 12h3",
  full: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  run: "M7 4.5v15l12-7.5z",
  stop: "M6 6h12v12H6z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  down: "m6 9 6 6 6-6",
  close: "M6 6l12 12M18 6 6 18",
};

/** A drawn sign: letters for such signs are missing in many fonts. */
export const icon = (name) => html`
  <svg class="rsg-sign" viewBox="0 0 24 24" aria-hidden="true" fill=${name === "run" || name === "stop" ? "currentColor" : "none"} stroke="currentColor" strokeWidth=${name === "more" ? 3 : 2.2} strokeLinecap="round" strokeLinejoin="round"><path d=${STROKES[name]} /></svg>`;
