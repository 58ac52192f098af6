// Everything around the canvas: the bar above it, the search, menus, messages.
import { useEffect, useRef, useState } from "./vendor/parts.js";
import { categoryColour, html, icon, useEditor } from "./view.js";
import { duration } from "./node.js";
import { find, fitting } from "./search.js";
import { typeWords } from "./types.js";

const RUN_WORDS = {
  waiting: "Waits for the graph that is stopping", running: "Running", stopping: "Stopping; a training saves first", done: "Done", failed: "A node failed", interrupted: "Stopped",
  refused: "Could not start", crashed: "Ended unexpectedly",
}; // prettier-ignore

// ---- the bar

export function Bar({ editor, actions }) {
  const use = (choose) => useEditor(editor, choose);
  const name = use((state) => state.name);
  const empty = use((state) => state.document.nodes.size === 0);
  const canUndo = use((state) => state.past.length > 0), canRedo = use((state) => state.future.length > 0);
  const problems = use((state) => state.problems.length);
  const starting = use((state) => state.starting);
  const panel = use((state) => state.panel);
  const trains = use((state) => [...state.document.nodes].filter(([, node]) => node.kind === "RolloutStudioTrain").length);
  const run = use((state) => state.run);
  return html`
    <div class="rsg-bar" role="toolbar" aria-label="Graph">
      ${editor.running
        ? html`<button type="button" class="rsg-stop" onClick=${editor.stop}>${icon("stop")} Stop</button>`
        : html`<button type="button" class="rsg-run" onClick=${() => editor.run()} disabled=${starting || empty} title="Run what has a result to look at (Ctrl+Enter)">${icon("run")} Run</button>`}
      <button type="button" onClick=${actions.search} title="Add a node (/, or double-click the canvas)">+ Node</button>
      <${Open} editor=${editor} actions=${actions} />
      <${Save} editor=${editor} actions=${actions} empty=${empty} />
      ${trains === 1 && html`<button type="button" onClick=${() => editor.toForm(editor.trains()[0])} title="Put this graph's training into the Train form">To the form</button>`}
      <span class="rsg-apart"></span>
      <button type="button" class="rsg-icon" aria-label="Undo" title="Undo (Ctrl+Z)" disabled=${!canUndo} onClick=${editor.undo}>${icon("undo")}</button>
      <button type="button" class="rsg-icon" aria-label="Redo" title="Redo (Ctrl+Shift+Z)" disabled=${!canRedo} onClick=${editor.redo}>${icon("redo")}</button>
      <button type="button" onClick=${actions.arrange} disabled=${empty} title="Put the nodes in order (L)">Arrange</button>
      <span class="rsg-title">${name}</span>
      ${problems > 0 && html`<button type="button" class="rsg-count" aria-expanded=${panel === "problems"} onClick=${() => editor.set({ panel: panel === "problems" ? null : "problems" })}>${problems} problem${problems === 1 ? "" : "s"}</button>`}
      <${RunLine} editor=${editor} run=${run} />
      <button type="button" class="rsg-icon" aria-label="Full screen" title="Full screen" onClick=${actions.full}>${icon("full")}</button>
      <button type="button" class="rsg-icon" aria-label="Help" title="Help and keys (?)" aria-expanded=${panel === "help"} onClick=${() => editor.set({ panel: panel === "help" ? null : "help" })}>?</button>
    </div>`;
}

function RunLine({ editor, run }) {
  const ranAs = useEditor(editor, (state) => state.ranAs);
  const [, tick] = useState(0);
  const running = run !== null && ["waiting", "running", "stopping"].includes(run.state);
  useEffect(() => {
    if (!running) return undefined;
    const timer = setInterval(() => tick((count) => count + 1), 1000);
    return () => clearInterval(timer);
  }, [running]);
  if (run === null) return null;
  const counted = run.nodes.filter((node) => node.state !== "muted");
  const over = counted.filter((node) => !["waiting", "running"].includes(node.state)).length;
  const seconds = Math.max(0, (running ? Date.now() / 1000 : (run.ended ?? run.started)) - run.started);
  const words = running && run.state === "running" ? `Running: ${over} of ${counted.length} nodes, ${duration(Math.round(seconds))}` : RUN_WORDS[run.state];
  const mine = run.run === ranAs;
  if (!mine && !running) return null;
  return html`
    <span class=${`rsg-runline rsg-run-${run.state}`} data-testid="graph-run" data-state=${run.state} role="status" title=${run.state === "crashed" ? run.message : `Results: ${run.results}`}>
      ${words}${!mine && html` <button type="button" class="rsg-text" onClick=${editor.openRun}>Another graph: show it</button>`}
    </span>`;
}

function Open({ editor, actions }) {
  const panel = useEditor(editor, (state) => state.panel);
  const workflows = useEditor(editor, (state) => state.workflows);
  const open = panel === "open";
  const choose = (action) => () => {
    editor.set({ panel: null });
    action();
  };
  return html`
    <span class="rsg-drop">
      <button type="button" aria-haspopup="menu" aria-expanded=${open} onClick=${() => editor.set({ panel: open ? null : "open" })}>Open ${icon("down")}</button>
      ${open && html`
        <div class="rsg-menu rsg-open" role="menu">
          <button type="button" role="menuitem" onClick=${choose(actions.choose)}><b>A file…</b><small>A workflow, saved here or by ComfyUI; or a PNG or LoRA that was made here.</small></button>
          <button type="button" role="menuitem" onClick=${choose(editor.services.fromForm)}><b>The Train form as a graph</b><small>Everything that the form holds now.</small></button>
          <button type="button" role="menuitem" onClick=${choose(editor.openEmpty)}><b>An empty graph</b></button>
          <hr />
          ${workflows.map((each) => html`
            <button type="button" role="menuitem" key=${each.name} onClick=${choose(() => editor.openShipped(each))}><b>${each.title}</b>${each.kind === "experiment" && html`<small>${each.about}</small>`}</button>`)}
        </div>`}
    </span>`;
}

function Save({ editor, actions, empty }) {
  const open = useEditor(editor, (state) => state.panel === "save");
  const choose = (action) => () => {
    editor.set({ panel: null });
    action();
  };
  return html`
    <span class="rsg-drop">
      <button type="button" aria-haspopup="menu" aria-expanded=${open} disabled=${empty} onClick=${() => editor.set({ panel: open ? null : "save" })}>Save ${icon("down")}</button>
      ${open && html`
        <div class="rsg-menu rsg-open" role="menu">
          <button type="button" role="menuitem" onClick=${choose(actions.save)}><b>As a file (Ctrl+S)</b><small>To open here again, to run from the command line, to share.</small></button>
          <button type="button" role="menuitem" onClick=${choose(actions.saveForComfy)}><b>For ComfyUI</b><small>A workflow that ComfyUI's page opens, with Rollout Studio among its custom nodes.</small></button>
        </div>`}
    </span>`;
}

// ---- an empty canvas

export function Welcome({ editor, actions }) {
  const empty = useEditor(editor, (state) => state.document.nodes.size === 0 && state.document.groups.length === 0);
  const workflows = useEditor(editor, (state) => state.workflows);
  const searching = useEditor(editor, (state) => state.search !== null);
  if (!empty || searching) return null;
  return html`
    <div class="rsg-welcome">
      <h2>An experiment, drawn</h2>
      <p>Nodes are steps, links say what goes where. One model and one dataset can feed two trainings; their results meet in a comparison.</p>
      <div class="rsg-starts">
        ${workflows.filter((each) => each.kind === "experiment").map((each) => html`
          <button type="button" key=${each.name} onClick=${() => editor.openShipped(each)}><b>${each.title}</b><small>${each.about}</small></button>`)}
        <button type="button" onClick=${editor.services.fromForm}><b>My Train form</b><small>What the form holds now, as a graph to go on with.</small></button>
      </div>
      <p class="rsg-quiet">Or double-click the canvas to add a node, or drop a workflow, a PNG or a LoRA that was made here. <button type="button" class="rsg-text" onClick=${actions.search}>Add a node</button></p>
    </div>`;
}

// ---- adding a node

export function Search({ editor, shell }) {
  const search = useEditor(editor, (state) => state.search);
  const kinds = useEditor(editor, (state) => state.kinds);
  const [query, setQuery] = useState("");
  const [at, setAt] = useState(0);
  const list = useRef(null);
  useEffect(() => {
    setQuery("");
    setAt(0);
  }, [search]);
  useEffect(() => {
    list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }, [at, query]);
  if (search === null) return null;
  const found = find(kinds, query, search.end === null ? undefined : fitting(search.end));
  const close = () => {
    editor.set({ search: null });
    shell.current.focus({ preventScroll: true });
  };
  const take = (each) => {
    editor.add(each.key, search.at, search.end);
    shell.current.focus({ preventScroll: true });
  };
  const keys = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) setAt((at + step + found.length) % Math.max(1, found.length));
    else if (event.key === "Enter" && found[at]) take(found[at]);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const { width, height } = shell.current.getBoundingClientRect();
  const style = { left: Math.max(4, Math.min(search.x, width - 330)), top: Math.max(4, Math.min(search.y, height - 380)) };
  let category = null;
  return html`
    <div class="rsg-shade" onPointerDown=${close}></div>
    <div class="rsg-search" style=${style} role="dialog" aria-label="Add a node">
      <input type="text" autoFocus role="combobox" aria-expanded="true" aria-controls="rsg-found" aria-activedescendant=${`rsg-found-${at}`} aria-label="Search for a node"
        placeholder=${search.end === null ? "Search for a node" : search.end.wants === "takers" ? `What takes ${typeWords(search.end.type)}?` : `What gives ${typeWords(search.end.type)}?`}
        value=${query} onChange=${(event) => { setQuery(event.target.value); setAt(0); }} onKeyDown=${keys} />
      <div class="rsg-found nowheel" role="listbox" id="rsg-found" ref=${list}>
        ${found.map((each, index) => {
          const first = !query && each.category !== category;
          category = each.category;
          return html`
            ${first && html`<h3 key=${`c ${category}`}>${category}</h3>`}
            <button type="button" tabIndex="-1" role="option" id=${`rsg-found-${index}`} aria-selected=${index === at} key=${each.key} style=${{ "--kind": categoryColour(each.category) }}
              onPointerMove=${() => setAt(index)} onClick=${() => take(each)}><b>${each.title}</b><small>${each.help}</small></button>`;
        })}
        ${!found.length && html`<p class="rsg-quiet">${search.end === null ? "No node is called that." : "No such node fits this link."}</p>`}
      </div>
    </div>`; // prettier-ignore
}

// ---- the menus of a node and of the canvas

export function Menu({ editor, shell, actions }) {
  const menu = useEditor(editor, (state) => state.menu);
  if (menu === null) return null;
  return html`<${menu.id === null ? CanvasMenu : NodeMenu} key=${menu.id} menu=${menu} editor=${editor} shell=${shell} actions=${actions} />`;
}

/** Items of a menu, the first with the focus; arrow keys go through them. */
function Items({ menu, editor, shell, label, children }) {
  const list = useRef(null);
  useEffect(() => {
    list.current.querySelector("button:not(:disabled)")?.focus();
  }, [menu]);
  const box = shell.current.getBoundingClientRect();
  const style = { left: Math.max(4, Math.min(menu.x - box.left, box.width - 240)), top: Math.max(4, Math.min(menu.y - box.top, box.height - 270)) };
  const keys = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const items = [...event.currentTarget.querySelectorAll("button:not(:disabled)")];
    items[(items.indexOf(globalThis.document.activeElement) + step + items.length) % items.length].focus();
  };
  return html`<div class="rsg-menu rsg-node-menu" style=${style} ref=${list} role="menu" aria-label=${label} onKeyDown=${keys}>${children}</div>`;
}

/** Does what was chosen, with the focus back on the canvas. */
const chosenFrom = (editor, shell) => (action) => () => {
  editor.set({ menu: null });
  shell.current.focus({ preventScroll: true });
  action();
};

function CanvasMenu({ menu, editor, shell, actions }) {
  const empty = useEditor(editor, (state) => state.document.nodes.size === 0);
  const choose = chosenFrom(editor, shell);
  const item = (words, action, off = false) => html`<button type="button" role="menuitem" disabled=${off} onClick=${choose(action)}>${words}</button>`;
  return html`
    <${Items} menu=${menu} editor=${editor} shell=${shell} label="Canvas">
      ${item("Add a node", () => actions.searchAt(menu.x, menu.y))}
      ${item("Paste", () => actions.paste(menu))}
      ${item("Frame around the chosen nodes", actions.group, empty)}
      ${item("Choose all", actions.selectAll, empty)}
      ${item("Put in order", actions.arrange, empty)}
      ${item("Show everything", actions.fitView, empty)}
    </${Items}>`;
}

function NodeMenu({ menu, editor, shell }) {
  const node = useEditor(editor, (state) => state.document.nodes.get(menu.id));
  if (node === undefined) return null;
  const declared = editor.state.kinds.get(node.kind);
  const choose = chosenFrom(editor, shell);
  return html`
    <${Items} menu=${menu} editor=${editor} shell=${shell} label=${editor.titleOf(menu.id)}>
      <button type="button" role="menuitem" disabled=${editor.running || node.muted || node.bypassed || !declared} onClick=${choose(() => editor.run(menu.id))}>Run up to here</button>
      ${node.kind === "RolloutStudioTrain" && html`<button type="button" role="menuitem" onClick=${choose(() => editor.toForm(menu.id))}>Use this training in the form</button>`}
      <button type="button" role="menuitem" onClick=${choose(() => editor.set({ naming: menu.id }))}>Give it a title</button>
      <button type="button" role="menuitem" onClick=${choose(() => editor.mute([menu.id]))}>${node.muted ? "Take part again" : "Mute: leave it out"}</button>
      <button type="button" role="menuitem" onClick=${choose(() => editor.bypass([menu.id]))}>${node.bypassed ? "No longer bypass it" : "Bypass: what it is given goes on"}</button>
      <button type="button" role="menuitem" onClick=${choose(() => editor.duplicate([menu.id]))}>Duplicate</button>
      <button type="button" role="menuitem" onClick=${choose(() => editor.remove([menu.id]))}>Delete</button>
    </${Items}>`;
}

// ---- messages

export function Notices({ editor }) {
  const notice = useEditor(editor, (state) => state.notice);
  const refusing = useEditor(editor, (state) => state.refusing);
  const run = useEditor(editor, (state) => state.run);
  const ranAs = useEditor(editor, (state) => state.ranAs);
  const crashed = run !== null && run.run === ranAs && run.state === "crashed";
  return html`
    ${refusing !== null && html`<p class="rsg-notice rsg-bad" role="alert" data-testid="refusing">${refusing}</p>`}
    ${refusing === null && notice !== null && html`
      <p class=${`rsg-notice rsg-${notice.kind}`} role="alert" data-testid="notice">${notice.text}
        <button type="button" class="rsg-small" aria-label="Close" onClick=${() => editor.set({ notice: null })}>${icon("close")}</button></p>`}
    ${crashed && html`<details class="rsg-crash"><summary>The run ended unexpectedly. Run it again to go on; the end of its log says more.</summary><pre class="nowheel">${run.message}</pre></details>`}`;
}

export function Problems({ editor, actions }) {
  const open = useEditor(editor, (state) => state.panel === "problems");
  const problems = useEditor(editor, (state) => state.problems);
  const document = useEditor(editor, (state) => state.document);
  if (!open) return null;
  return html`
    <aside class="rsg-panel rsg-problems nowheel" aria-label="Problems">
      <header><b>${problems.length} problem${problems.length === 1 ? "" : "s"}; nothing runs until ${problems.length === 1 ? "it is" : "they are"} mended</b>
        <button type="button" class="rsg-small" aria-label="Close" onClick=${() => editor.set({ panel: null })}>${icon("close")}</button></header>
      <ol>
        ${problems.map((each, index) => html`
          <li key=${index}>
            ${each.node !== null && document.nodes.has(each.node)
              ? html`<button type="button" class="rsg-text" onClick=${() => actions.focusNode(each.node)}>${editor.titleOf(each.node)}${each.input === null ? "" : `, ${editor.inputWords(each.node, each.input)}`}</button> `
              : null}${each.message}
          </li>`)}
      </ol>
    </aside>`;
}

const KEYS = [
  ["/ or double-click", "Add a node"], ["Drag from a socket", "Link; dropped on the canvas: add what fits"], ["Ctrl+Enter", "Run"],
  ["Ctrl+Z, Ctrl+Shift+Z", "Undo, redo"], ["Ctrl+C, Ctrl+X, Ctrl+V", "Copy, cut, paste; links from outside come along"], ["Ctrl+D", "Duplicate"],
  ["Shift+drag, Shift+click", "Choose several"], ["Ctrl+A", "Choose all"], ["Delete", "Delete what is chosen"], ["M, Ctrl+M", "Mute: leave a node, and what needs it, out"], ["Ctrl+B", "Bypass: leave a node out; what it is given goes on"],
  ["Ctrl+G", "Frame around the chosen nodes"], ["L", "Put in order"], ["F", "Show everything"], ["Tab, Enter", "Go to the next node, choose it; on two sockets: link them"],
  ["Arrow keys", "Move the chosen nodes"], ["Ctrl+S, Ctrl+O", "Save to a file, open a file"], ["?", "This help"],
]; // prettier-ignore

export function Help({ editor }) {
  const open = useEditor(editor, (state) => state.panel === "help");
  const colours = useEditor(editor, (state) => state.colours);
  if (!open) return null;
  return html`
    <aside class="rsg-panel rsg-keys nowheel" aria-label="Help">
      <header><b>How the graph works</b><button type="button" class="rsg-small" aria-label="Close" onClick=${() => editor.set({ panel: null })}>${icon("close")}</button></header>
      <p>Run computes what has a result to look at, and what that needs. What was computed before is taken from the cache: change one field, and only what depends on it runs again.
        Trainings become runs of the Runs tab. Closing the page stops nothing.</p>
      <dl>${KEYS.map(([keys, does]) => html`<dt key=${keys}><kbd>${keys}</kbd></dt><dd key=${does}>${does}</dd>`)}</dl>
      <p class="rsg-types">${Object.entries(colours).map(([type, colour]) => html`<span key=${type}><i style=${{ background: colour }}></i>${typeWords(type)}</span>`)}</p>
    </aside>`;
}

export function Picture({ editor }) {
  const picture = useEditor(editor, (state) => state.picture);
  const close = useRef(null);
  useEffect(() => {
    close.current?.focus();
  }, [picture]);
  if (picture === null) return null;
  const done = () => editor.set({ picture: null });
  return html`
    <div class="rsg-picture" role="dialog" aria-modal="true" aria-label=${picture.caption || picture.title} onClick=${(event) => event.target === event.currentTarget && done()}>
      <img src=${picture.whole} alt=${picture.caption || picture.title} width=${picture.width} height=${picture.height} />
      <p>${picture.caption || picture.title} <a href=${picture.whole} target="_blank" rel="noreferrer">Open by itself</a> <button type="button" ref=${close} onClick=${done}>Close</button></p>
    </div>`;
}
