// One node on the canvas: its sockets, fields, pictures, and how it stands.
import { Handle, NodeResizeControl, Position, memo, useRef, useState } from "./vendor/parts.js";
import { categoryColour, html, icon, idOf, useEditor } from "./view.js";
import { control, fault, read, shown, sliderStep } from "./fields.js";
import { isLink } from "./document.js";
import { accepts, typeWords, words } from "./types.js";

export const NARROWEST = 240, WIDEST = 1200;
const NO_FAULTS = Object.freeze([]);
const STATES = {
  waiting: "waiting", running: "running", cached: "done before", done: "done", failed: "failed", skipped: "left out", interrupted: "stopped", muted: "muted", bypassed: "bypassed",
}; // prettier-ignore
const MARKS = { waiting: "…", running: "▸", cached: "✓", done: "✓", failed: "✕", skipped: "–", interrupted: "■", muted: "⏸", bypassed: "⤳" };

export const NodeCard = memo(function NodeCard({ id: flowId, data: { editor } }) {
  const id = idOf(flowId);
  const use = (choose) => useEditor(editor, choose);
  const node = use((state) => state.document.nodes.get(id));
  const place = use((state) => state.document.places.get(id));
  const status = use((state) => state.statuses.get(id));
  const stale = use((state) => state.stale.has(id));
  const faults = use((state) => state.faults.get(id)) ?? NO_FAULTS;
  const kinds = use((state) => state.kinds);
  const [help, setHelp] = useState(false);
  if (node === undefined) return null;
  const declared = kinds.get(node.kind);
  const state = node.muted ? "muted" : node.bypassed ? "bypassed" : status?.state;
  const classes = ["rsg-node", state && !stale ? `rsg-is-${state}` : "", stale ? "rsg-is-stale" : "", faults.length ? "rsg-has-faults" : "", node.muted ? "rsg-is-muted" : "", node.bypassed ? "rsg-is-bypassed" : ""];
  const parts = { editor, id, node, declared, place, faults, help };
  return html`
    <div class=${classes.filter(Boolean).join(" ")} data-node=${id} data-state=${state ?? "new"} data-category=${declared?.category ?? ""} style=${{ "--kind": categoryColour(declared?.category) }}>
      <${NodeResizeControl} position="right" variant="line" minWidth=${NARROWEST} maxWidth=${WIDEST} resizeDirection="horizontal" />
      <${Head} ...${parts} setHelp=${setHelp} state=${state} status=${status} stale=${stale} />
      ${help && declared && html`<p class="rsg-help">${declared.help}</p>`}
      ${declared ? html`<${Sockets} ...${parts} /><${Fields} ...${parts} />` : html`<p class="rsg-fault">There is no node ${node.kind} in this program.</p>`}
      ${faults.filter((each) => !declared?.byName.has(each.input)).map((each, index) => html`<p class="rsg-fault" key=${index}>${each.message}</p>`)}
      ${status && html`<${Standing} editor=${editor} status=${status} stale=${stale} title=${editor.titleOf(id)} />`}
    </div>`;
});

function Head({ editor, id, node, declared, help, setHelp, state, status, stale }) {
  const naming = useEditor(editor, (state) => state.naming === id);
  const title = editor.titleOf(id);
  const name = (event) => {
    editor.set({ naming: null });
    editor.change(editor.renamed(id, event.target.value.trim()));
  };
  const keys = (event) => {
    if (event.key === "Enter") event.target.blur();
    if (event.key === "Escape") event.target.value = node.title ?? "";
    if (event.key === "Escape") event.target.blur();
    event.stopPropagation();
  };
  return html`
    <header class="rsg-head">
      ${naming
        ? html`<input class="nodrag rsg-name" aria-label="Title" autoFocus defaultValue=${node.title ?? ""} placeholder=${declared?.title} maxLength="200" onBlur=${name} onKeyDown=${keys} />`
        : html`<strong onDoubleClick=${() => editor.set({ naming: id })} title=${declared ? `${declared.title}: ${declared.help}` : node.kind}>${title}</strong>`}
      ${!naming && node.title !== null && declared && html`<small>${declared.title}</small>`}
      <span class="rsg-fill"></span>
      ${state && html`<span class="rsg-state" data-testid="state">${MARKS[state]} ${stale ? "changed since" : stateText(state, status)}</span>`}
      <button type="button" class="nodrag rsg-small" aria-label=${`Help on ${title}`} aria-pressed=${help} onClick=${() => setHelp(!help)}>?</button>
      <button type="button" class="nodrag rsg-small" aria-label=${`Menu of ${title}`} aria-haspopup="menu" onClick=${(event) => editor.openMenu(id, event)}>${icon("more")}</button>
    </header>`;
}

function stateText(state, status) {
  const seconds = status?.seconds;
  return state === "done" && seconds >= 0.1 ? `done, ${duration(seconds)}` : STATES[state] ?? state;
}

export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

// ---- sockets

/** Sockets can be reached by Tab: Enter on one takes up a link, Enter on another one joins them. */
const byKey = {
  role: "button",
  tabIndex: 0,
  onKeyDown: (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    event.currentTarget.click();
  },
};

function Sockets({ editor, id, declared, faults, help }) {
  const sockets = declared.inputs.filter((input) => input.socket);
  const rows = Math.max(sockets.length, declared.outputs.length);
  if (!rows) return null;
  return html`
    <div class="rsg-sockets">
      ${Array.from({ length: rows }, (_, row) => html`
        <div class="rsg-row" key=${row}>
          ${sockets[row] ? html`<${Input} editor=${editor} id=${id} input=${sockets[row]} fault=${faults.find((each) => each.input === sockets[row].name)} help=${help} />` : html`<span></span>`}
          ${declared.outputs[row] && html`<${Output} editor=${editor} id=${id} output=${declared.outputs[row]} slot=${row} help=${help} />`}
        </div>`)}
    </div>`;
}

function Input({ editor, id, input, fault, help }) {
  return html`
    <span class="rsg-in" title=${`${input.help} Takes ${typeWords(input.type)}.`}>
      <${Plug} editor=${editor} id=${id} input=${input} />
      ${words(input.name)}${!input.optional && html`<i title="Needs a link">•</i>`}
      ${help && html`<em>${input.help}</em>`}
      ${fault && html`<b class="rsg-fault">${fault.message}</b>`}
    </span>`;
}

function Plug({ editor, id, input }) {
  const linking = useEditor(editor, (state) => state.linking);
  const fits = linking !== null && linking.wants === "takers" && linking.node !== id && accepts(input.type, linking.type);
  const colour = useEditor(editor, (state) => state.colours[input.type]);
  return html`<${Handle} ...${byKey} type="target" position=${Position.Left} id=${`in:${input.name}`} style=${{ "--socket": colour ?? "#8f9aa3" }}
    className=${linking === null ? "" : fits ? "rsg-fits" : "rsg-unfit"} aria-label=${`${words(input.name)}, input, takes ${typeWords(input.type)}`} />`;
}

function Output({ editor, id, output, slot, help }) {
  const linking = useEditor(editor, (state) => state.linking);
  const fits = linking !== null && linking.wants === "givers" && linking.node !== id && accepts(linking.type, output.type);
  const colour = useEditor(editor, (state) => state.colours[output.type]);
  return html`
    <span class="rsg-out" title=${`${output.help} Gives ${typeWords(output.type)}.`}>
      ${words(output.name)}
      ${help && html`<em>${output.help}</em>`}
      <${Handle} ...${byKey} type="source" position=${Position.Right} id=${`out:${slot}`} style=${{ "--socket": colour ?? "#8f9aa3" }}
        className=${linking === null ? "" : fits ? "rsg-fits" : "rsg-unfit"} aria-label=${`${words(output.name)}, output, gives ${typeWords(output.type)}`} />
    </span>`;
}

// ---- fields

function Fields({ editor, id, node, declared, place, faults, help }) {
  const fields = declared.inputs.filter((input) => !input.socket);
  const open = place?.more === true;
  const faulty = new Set(faults.map((each) => each.input));
  const seen = (input) => open || input.level === "simple" || node.inputs.has(input.name) || faulty.has(input.name);
  const hidden = fields.filter((input) => !seen(input)).length;
  const unknown = [...node.inputs.keys()].filter((name) => !declared.byName.has(name));
  if (!fields.length && !unknown.length) return null;
  return html`
    <div class="rsg-fields">
      ${fields.filter(seen).map((input) => html`<${Field} key=${input.name} editor=${editor} id=${id} input=${input} value=${node.inputs.get(input.name)} problem=${faults.find((each) => each.input === input.name)?.message} help=${help} />`)}
      ${unknown.map((name) => html`
        <div class="rsg-field" key=${`unknown ${name}`}>
          <b class="rsg-fault">There is no input ${name}.</b>
          <button type="button" class="nodrag rsg-text" onClick=${() => editor.setInput(id, name, undefined)}>Remove it</button>
        </div>`)}
      ${(hidden > 0 || open) && html`
        <button type="button" class="nodrag rsg-text" aria-expanded=${open} onClick=${() => editor.setMore(id, !open)}>
          ${open ? "Fewer settings" : `${hidden} more setting${hidden === 1 ? "" : "s"}`}
        </button>`}
    </div>`;
}

function Field({ editor, id, input, value, problem, help }) {
  const linkable = useEditor(editor, (state) => state.linkable.has(input.type));
  const linked = isLink(value);
  const wrong = linked ? problem : fault(input, value) ?? problem;
  const kind = control(input);
  const changed = value !== undefined && !linked;
  const normal = shown(input, undefined);
  const hint = [input.help, input.source, changed ? `Default: ${normal === "" ? "empty" : normal}.` : "", `(${input.name})`].filter(Boolean).join(" ");
  return html`
    <div class=${`rsg-field rsg-${kind}${changed ? " rsg-changed" : ""}${wrong ? " rsg-wrong" : ""}`} data-field=${input.name}>
      ${linkable && html`<${Plug} editor=${editor} id=${id} input=${input} />`}
      <label title=${hint}>
        <span>${input.label}</span>
        ${linked ? html`<em class="rsg-linked">linked</em>` : html`<${Control} editor=${editor} id=${id} input=${input} value=${value} kind=${kind} wrong=${wrong !== undefined && wrong !== null} />`}
      </label>
      ${help && html`<em>${input.help}</em>`}
      ${wrong && html`<b class="rsg-fault">${wrong}</b>`}
    </div>`;
}

function Control({ editor, id, input, value, kind, wrong }) {
  const [draft, setDraft] = useState(null); // what is being typed: it stays as typed until the field is left
  const now = shown(input, value);
  const take = (raw) => editor.setInput(id, input.name, read(input, raw));
  const common = { "aria-label": input.label, "aria-invalid": wrong, onBlur: () => { setDraft(null); editor.pauseMerging(); } }; // prettier-ignore
  if (kind === "switch") return html`<input type="checkbox" class="nodrag" ...${common} checked=${now} onChange=${(event) => take(event.target.checked)} />`;
  if (kind === "choice") {
    const choices = input.choices.includes(now) ? input.choices : [now, ...input.choices];
    return html`<select class="nodrag" ...${common} value=${now} onChange=${(event) => { take(event.target.value); editor.pauseMerging(); }}>
      ${choices.map((each) => html`<option key=${each} value=${each}>${choiceWords(input, each)}</option>`)}
    </select>`; // prettier-ignore
  }
  const typed = { ...common, value: draft ?? now, onChange: (event) => { setDraft(event.target.value); take(event.target.value); } }; // prettier-ignore
  const empty = input.unsettable ? "not set" : "";
  if (kind === "lines" || kind === "area") {
    const rows = Math.min(8, Math.max(kind === "lines" ? 2 : 3, typed.value.split("\n").length));
    return html`<textarea class="nodrag nowheel nopan" rows=${rows} placeholder=${kind === "lines" ? "one on each line" : empty} ...${typed}></textarea>`;
  }
  const line = html`<input type="text" class="nodrag nopan" inputMode=${input.value_type === "str" ? "text" : "decimal"} placeholder=${empty} spellCheck="false" ...${typed} />`;
  if (kind !== "slider") return line;
  return html`
    <input type="range" class="nodrag nopan" tabIndex="-1" aria-hidden="true" min=${input.minimum} max=${input.maximum} step=${sliderStep(input)} value=${now}
      onChange=${(event) => take(event.target.value)} onPointerUp=${editor.pauseMerging} />
    ${line}`;
}

function choiceWords(input, choice) {
  if (choice === "unset") return "not set";
  return input.value_type === "bool" ? { true: "on", false: "off" }[choice] : choice;
}

// ---- what a run has reported

function Standing({ editor, status, stale, title }) {
  const share = status.total > 0 ? Math.min(1, status.done / status.total) : null;
  return html`
    <div class=${`rsg-standing${stale ? " rsg-old" : ""}`}>
      ${status.state === "running" && html`
        <div class="rsg-progress" role="progressbar" aria-label=${title} aria-valuemin="0" aria-valuemax="1" aria-valuenow=${share ?? undefined}>
          <i class=${share === null ? "rsg-unknown" : ""} style=${{ width: `${(share ?? 1) * 100}%` }}></i>
        </div>
        ${share !== null && html`<small>${status.what} ${status.done} of ${status.total}</small>`}`}
      ${status.loss && html`<${Loss} loss=${status.loss} />`}
      ${status.message && html`<p class=${status.state === "failed" ? "rsg-fault" : "rsg-quiet"}>${status.message}${status.remedy && html` <em>${status.remedy}</em>`}</p>`}
      ${status.texts.map((text, index) => html`<p class="rsg-words nowheel nodrag nopan" key=${index}>${text}</p>`)}
      ${status.pictures.length > 0 && html`
        <div class="rsg-pictures">
          ${status.pictures.map((each) => html`
            <button type="button" class=${`nodrag ${each.width > 1.8 * each.height || status.pictures.length === 1 ? "rsg-wide" : ""}`} key=${each.whole} aria-label=${`Look at ${each.caption || title}`} onClick=${() => editor.set({ picture: { ...each, title } })}>
              <img src=${each.small} alt=${each.caption || title} width=${each.width} height=${each.height} draggable="false" />
              ${each.caption && html`<span>${each.caption}</span>`}
            </button>`)}
        </div>`}
    </div>`;
}

/** The loss of a training over its steps, smoothed: the run's page has it in large. */
function Loss({ loss: { steps, values } }) {
  const [first, last, low, high] = [steps[0], steps[steps.length - 1], Math.min(...values), Math.max(...values)];
  const points = values.map((value, i) => `${((100 * (steps[i] - first)) / (last - first || 1)).toFixed(1)},${(36 - (32 * (value - low)) / (high - low || 1)).toFixed(1)}`);
  const words = `loss ${number(values[values.length - 1])} at step ${last}`;
  return html`
    <figure class="rsg-loss" role="img" aria-label=${`Loss over the training steps: ${words}; between ${number(low)} and ${number(high)}`}>
      <svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true"><polyline points=${points.join(" ")} /></svg>
      <figcaption><span>${words}</span><span>${number(low)} – ${number(high)}</span></figcaption>
    </figure>`;
}

const number = (value) => String(Number(value.toPrecision(3)));

// ---- a frame around nodes

export const Frame = memo(function Frame({ id: flowId, data: { editor } }) {
  const id = idOf(flowId);
  const group = useEditor(editor, (state) => state.document.groups.find((each) => each.id === id));
  const field = useRef(null);
  if (group === undefined) return null;
  return html`
    <div class="rsg-frame">
      <${NodeResizeControl} position="bottom-right" minWidth=${120} minHeight=${80} className="rsg-corner" />
      <div class="rsg-frame-title">
        <input ref=${field} class="nodrag" aria-label="Title of the group" value=${group.title} maxLength="200"
          onChange=${(event) => editor.retitleGroup(id, event.target.value)} onBlur=${editor.pauseMerging}
          onKeyDown=${(event) => event.key === "Enter" && field.current.blur()} />
      </div>
    </div>`;
});
