// Puts the editor into its place on the page, and connects it with Gradio: `server` answers, `props` hold what the page sends.
import { createElement, createRoot } from "./vendor/parts.js";
import { Editor } from "./editor.js";
import { App } from "./canvas.js";

const STYLES = new URL("./vendor/react-flow.css", import.meta.url).href;

export async function mount(home, { props, watch, server, fromForm, toForm }) {
  await styled();
  const services = {
    ask: (name, data) => server[name](data),
    fromForm: () => fromForm({}),
    toForm,
    storage: window.localStorage,
    key: `rollout-studio.graph ${location.pathname}`,
  };
  const editor = new Editor(await server.graph_menu(null), services);
  home.replaceChildren();
  createRoot(home).render(createElement(App, { editor, home }));
  if (props.run) editor.takeRun(props.run);
  watch("run", () => editor.takeRun(props.run ?? null));
  watch("opened", () => props.opened && editor.open(JSON.parse(props.opened.graph), props.opened.name));
  watch("message", () => props.message && editor.notify(props.message.text));
  return editor;
}

function styled() {
  if (document.querySelector(`link[href="${STYLES}"]`)) return undefined;
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: STYLES });
  const loaded = new Promise((resolve, reject) => Object.assign(link, { onload: resolve, onerror: reject }));
  document.head.append(link);
  return loaded;
}
