// The editor's state, and everything that can be done with it. The parts on the screen (canvas.js, node.js, panels.js) look at `state` and
// call what is here; what is pure lives in document.js and its neighbours.
import * as graph from "./document.js";
import { arrange, guess, placed } from "./arrange.js";
import { byKind, givenTypes, refusal, takers, titleOf, words } from "./types.js";

const UNDO_STEPS = 200;
const CHECK_AFTER_MS = 450;
const SAVE_AFTER_MS = 300;
const NOTICE_MS = 7000;
export const LARGEST_TEXT = 2 ** 21;
const LARGEST_PICTURE = 32 * 2 ** 20;
const GOING = new Set(["waiting", "running"]); // one that is stopping is waited for by the next
const NONE = Object.freeze([]);

export class Editor {
  /** `services`: `ask(name, data)` answers from the server, `fromForm()`, `toForm(data)`, and `storage` (like localStorage) with its `key`. */
  constructor(menu, services) {
    this.services = services;
    this.listeners = new Set();
    this.sizes = () => null; // set by the canvas: a node's measured size
    this.view = null; // the viewport, kept for the next visit
    const kinds = byKind(menu.nodes);
    this.state = {
      kinds, colours: menu.colours, workflows: menu.workflows, linkable: givenTypes(kinds),
      document: graph.EMPTY, name: "", ranAs: null, past: NONE, future: NONE,
      run: null, statuses: new Map(), ran: null, stale: new Set(), starting: false,
      problems: NONE, faults: new Map(), linking: null, refusing: null, notice: null, panel: null, search: null, menu: null, naming: null, picture: null, fit: 0, chosen: NONE,
    }; // prettier-ignore
    this.takeRun(menu.run);
    this.restore();
  }

  // ---- listeners and notices

  subscribe = (listener) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  set(change) {
    this.state = { ...this.state, ...change };
    for (const listener of this.listeners) listener();
  }

  notify(text, kind = "bad") {
    clearTimeout(this.noticeTimer);
    this.set({ notice: { text, kind } });
    this.noticeTimer = setTimeout(() => this.set({ notice: null }), NOTICE_MS);
  }

  // ---- the document and its history

  get document() {
    return this.state.document;
  }

  /** Take a new document; changes with the same `merge` right after each other are one step back. */
  change(document, merge = null) {
    const { document: before, name, ranAs, past } = this.state;
    if (document === before) return;
    const goesOn = merge !== null && merge === this.merging && past.length > 0;
    this.merging = merge;
    this.show({ document, past: goesOn ? past : [...past.slice(1 - UNDO_STEPS), { document: before, name, ranAs }], future: NONE });
  }

  /** What comes next is a step of its own. */
  pauseMerging = () => {
    this.merging = null;
  };

  undo = () => this.travel("past", "future");
  redo = () => this.travel("future", "past");

  travel(from, to) {
    const steps = this.state[from];
    if (!steps.length) return;
    const { document, name, ranAs } = this.state;
    this.merging = null;
    this.show({ ...steps.at(-1), [from]: steps.slice(0, -1), [to]: [...this.state[to], { document, name, ranAs }] });
  }

  show(change) {
    const meaning = this.document.nodes;
    this.set(change);
    this.save();
    if ("ranAs" in change) this.readStatuses();
    if (this.document.nodes !== meaning) {
      this.findStale();
      clearTimeout(this.checkTimer);
      this.checkTimer = setTimeout(this.check, CHECK_AFTER_MS);
    }
  }

  /** Open a file's data; the graph before is one undo away. `ranAs`: the run that it is the graph of. */
  open(data, name, ranAs = null) {
    const { document: before, name: called, ranAs: was, past } = this.state;
    const document = this.readPlaced(data);
    this.merging = null;
    this.show({
      document, name, ranAs, past: [...past.slice(1 - UNDO_STEPS), { document: before, name: called, ranAs: was }], future: NONE,
      panel: null, search: null, chosen: NONE, fit: this.state.fit + 1, ran: ranAs === null ? null : document,
    }); // prettier-ignore
    this.findStale();
  }

  readPlaced(data) {
    const document = graph.read(data);
    return placed(document, (id) => guess(this.state.kinds.get(document.nodes.get(id).kind)));
  }

  // ---- between visits

  save() {
    clearTimeout(this.saveTimer);
    this.saveTimer = setTimeout(this.saveNow, SAVE_AFTER_MS);
  }

  saveNow = () => {
    const { document, name, ranAs } = this.state;
    const text = JSON.stringify({ graph: graph.write(document), name, ranAs, view: this.view });
    try {
      this.services.storage.setItem(this.services.key, text);
    } catch (error) {
      this.notify(`This browser does not keep the graph (${error.name}); save it to a file before you leave.`);
    }
  };

  restore() {
    let kept;
    try {
      kept = JSON.parse(this.services.storage.getItem(this.services.key) ?? "null");
      if (kept === null) return;
      const document = this.readPlaced(kept.graph);
      this.view = kept.view ?? null;
      this.state = { ...this.state, document, name: String(kept.name), ranAs: kept.ranAs ?? null, fit: this.view ? 0 : 1 };
    } catch (error) {
      this.notify(`The graph of the last visit could not be read (${error.message}).`);
      return;
    }
    this.readStatuses();
    setTimeout(this.check);
    if (this.state.ranAs !== null) this.recallRun(this.state.ranAs);
  }

  /** What ran, to see what was changed since. */
  async recallRun(name) {
    const answer = await this.ask("graph_of_run", name, { quiet: true });
    if (answer?.graph && this.state.ranAs === name) {
      this.set({ ran: graph.read(answer.graph) });
      this.findStale();
    }
  }

  // ---- asking the server

  /** The server's answer; null where there is none, which is reported, as is a `fault` in it. */
  async ask(what, data, { quiet = false } = {}) {
    try {
      const answer = await this.services.ask(what, data);
      if (answer?.fault && !quiet) this.notify(answer.fault);
      return answer;
    } catch (error) {
      console.warn(error);
      if (!quiet) this.notify("The page's server does not answer. Is it still running?");
      return null;
    }
  }

  check = async () => {
    clearTimeout(this.checkTimer);
    const { document } = this.state;
    if (!document.nodes.size) return this.takeProblems(NONE);
    const answer = await this.ask("graph_check", { graph: this.text() }, { quiet: true });
    if (answer && this.document.nodes === document.nodes) this.takeProblems(answer.problems);
  };

  takeProblems(problems) {
    const faults = new Map();
    for (const each of problems) if (each.node !== null) faults.set(each.node, [...(faults.get(each.node) ?? []), each]);
    const panel = !problems.length && this.state.panel === "problems" ? null : this.state.panel;
    this.set({ problems, faults, panel });
  }

  // ---- running

  /** Run the graph, or only what `only` needs. */
  run = async (only = null) => {
    const { document } = this.state;
    this.set({ starting: true });
    const answer = await this.ask("graph_run", { graph: this.text(), only });
    this.set({ starting: false });
    if (!answer) return;
    if (answer.problems) {
      this.takeProblems(answer.problems);
      this.set({ panel: "problems" });
    } else if (answer.run && !answer.fault) {
      this.set({ ran: document, ranAs: answer.run.run });
      this.save();
      this.takeRun(answer.run);
    }
  };

  stop = async () => {
    const answer = await this.ask("graph_stop", this.state.run.run);
    if (answer?.run) this.takeRun(answer.run);
  };

  /** The page's report of the newest run. */
  takeRun(run) {
    if (JSON.stringify(run) === JSON.stringify(this.state.run)) return;
    const before = this.state.run;
    this.set({ run });
    this.readStatuses();
    if (run && run.run === this.state.ranAs && run.problems.length && before?.state !== run.state) {
      this.takeProblems(run.problems);
      this.set({ panel: "problems" });
    }
  }

  readStatuses() {
    const { run, ranAs, statuses: before } = this.state;
    const statuses = new Map();
    for (const each of run !== null && run.run === ranAs ? run.nodes : []) {
      const old = before.get(each.id);
      statuses.set(each.id, JSON.stringify(old) === JSON.stringify(each) ? old : each);
    }
    this.set({ statuses });
    this.findStale();
  }

  findStale() {
    const { ran, statuses, document } = this.state;
    if (ran === null || !statuses.size) return this.state.stale.size ? this.set({ stale: new Set() }) : undefined;
    const then = graph.signatures(ran), now = graph.signatures(document);
    const stale = new Set([...statuses.keys()].filter((id) => then.get(id) !== now.get(id)));
    this.set({ stale });
  }

  get running() {
    return this.state.run !== null && GOING.has(this.state.run.state);
  }

  /** Show the graph of the newest run, which another viewer may have started. */
  openRun = async () => {
    const { run } = this.state.run;
    const answer = await this.ask("graph_of_run", run);
    if (answer?.graph) {
      this.open(answer.graph, "the graph that ran", run);
      this.readStatuses();
    }
  };

  // ---- opening and saving

  openShipped = async ({ name, title }) => {
    const answer = await this.ask("graph_shipped", name);
    if (answer?.graph) this.open(answer.graph, title);
  };

  openEmpty = () => this.open(graph.write(graph.EMPTY), "");

  openText = async (text, name) => {
    if (text.length > LARGEST_TEXT) return this.notify(`${name} is too large for a workflow; at most ${LARGEST_TEXT / 2 ** 20} MiB are read.`);
    this.takeFile(await this.ask("graph_read", { name, text }), name);
  };

  /** A file that was dropped or chosen: a workflow, or a PNG or LoRA that carries one. */
  openFile = async (file) => {
    const ending = file.name.toLowerCase().split(".").pop();
    if (ending === "json") return this.openText(await file.text(), file.name);
    if (ending !== "png" && ending !== "safetensors") {
      return this.notify(`${file.name}: drop a workflow (JSON), or a PNG or LoRA (.safetensors) that was made here.`);
    }
    let part = file;
    if (ending === "safetensors") {
      const length = new DataView(await file.slice(0, 8).arrayBuffer());
      part = file.slice(0, file.size < 8 ? 0 : 8 + Number(length.getBigUint64(0, true))); // its head; the weights stay here
    }
    if (part.size > LARGEST_PICTURE) return this.notify(`${file.name} is too large; at most ${LARGEST_PICTURE / 2 ** 20} MiB are read.`);
    this.takeFile(await this.ask("graph_read", { name: file.name, bytes: await base64(part) }), file.name);
  };

  takeFile(answer, name) {
    if (!answer?.graph) return;
    this.open(answer.graph, name.replace(/\.[^.]+$/, ""));
    if (answer.problems.length) this.notify(`Opened, but not everything in it could be used: ${answer.problems[0].message}`);
  }

  /** The graph as the server takes it: as text, because Gradio takes an object with a `path` in it for an uploaded file. */
  text = () => JSON.stringify(graph.write(this.document));

  fileName(mark = "") {
    const stem = this.state.name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replaceAll(/^-|-$/g, "");
    return `${stem === "" ? "graph" : stem}${mark}.json`;
  }

  /** The graph as ComfyUI's page opens it, as text; null where it could not be made, which is reported. */
  forComfy = async () => {
    const answer = await this.ask("graph_comfy", { graph: this.text() });
    if (answer?.problems) {
      this.takeProblems(answer.problems);
      this.set({ panel: "problems" });
    }
    return answer?.text ?? null;
  };

  toForm = (train) => this.services.toForm({ graph: this.text(), train });

  trains() {
    return [...this.document.nodes].filter(([, node]) => node.kind === "RolloutStudioTrain").map(([id]) => id);
  }

  // ---- changing nodes

  setInput(id, name, value) {
    this.change(graph.setInput(this.document, id, name, value), `field ${id} ${name}`);
  }

  /** Add a node at a place of the canvas; `end` is the dropped link that it shall take or give. */
  add(kind, at, end = null) {
    const declared = this.state.kinds.get(kind);
    const x = end?.wants === "givers" ? at.x - guess(declared).width : at.x; // what feeds a node stands left of it
    let [document, id] = graph.addNode(this.document, kind, declared.title, { x: Math.round(x), y: Math.round(at.y) });
    if (end?.wants === "takers") {
      document = graph.connect(document, { from: end.node, slot: end.slot, to: id, input: takers(declared, end.type)[0].name });
    } else if (end?.wants === "givers") {
      const slot = declared.outputs.findIndex((output) => output.type === end.type);
      document = graph.connect(document, { from: id, slot: Math.max(0, slot), to: end.node, input: end.input });
    }
    this.change(document);
    this.set({ search: null, chosen: [id] });
    return id;
  }

  renamed = (id, title) => graph.setTitle(this.document, id, title);

  setMore(id, more) {
    this.change(graph.place(this.document, [[id, { more: more ? true : undefined }]]));
  }

  retitleGroup(id, title) {
    this.change(graph.changeGroup(this.document, id, { title }), `group ${id}`);
  }

  openMenu(id, event) {
    event.preventDefault();
    const box = event.currentTarget.getBoundingClientRect();
    this.set({ menu: { id, x: event.type === "contextmenu" ? event.clientX : box.left, y: event.type === "contextmenu" ? event.clientY : box.bottom } });
  }

  /** Link, or report why not. */
  link(link) {
    const reason = refusal(this.document, this.state.kinds, link);
    if (reason !== null) return this.notify(reason);
    this.change(graph.connect(this.document, link));
  }

  /** Take a link from where it is to another input, or report why not. */
  relink(old, link) {
    const without = graph.setInput(this.document, old.to, old.input, undefined);
    const reason = refusal(without, this.state.kinds, link);
    if (reason !== null) return this.notify(reason);
    this.change(graph.connect(without, link));
  }

  unlink(links) {
    this.change(links.reduce((document, { to, input }) => graph.setInput(document, to, input, undefined), this.document));
  }

  remove(ids, groups = NONE, links = NONE) {
    let document = links.reduce((changed, { to, input }) => graph.setInput(changed, to, input, undefined), this.document);
    if (ids.length) document = graph.removeNodes(document, ids);
    if (groups.length) document = graph.setGroups(document, document.groups.filter((group) => !groups.includes(group.id)));
    this.change(document);
  }

  mute = (ids) => this.toggle(ids, "muted");
  bypass = (ids) => this.toggle(ids, "bypassed");

  toggle(ids, mode) {
    if (ids.length) this.change(graph.setMode(this.document, ids, mode, !ids.every((id) => this.document.nodes.get(id)[mode])));
  }

  /** Put copied nodes beside the old ones, and choose them. */
  paste(clip, moved = { x: 40, y: 40 }) {
    const unknown = [...clip.nodes.values()].find((node) => !this.state.kinds.has(node.kind));
    if (unknown) return this.notify(`There is no node ${unknown.kind} here.`);
    const [document, ids] = graph.paste(this.document, clip, moved);
    this.change(document);
    this.set({ chosen: ids });
  }

  duplicate(ids) {
    if (ids.length) this.paste(graph.clipped(graph.copy(this.document, ids)));
  }

  group(ids) {
    const around = this.around(ids);
    if (around === null) return;
    this.change(graph.addGroup(this.document, around, "Group"));
  }

  /** The rectangle around nodes, with a margin and room for a title. */
  around(ids) {
    const boxes = ids.map((id) => ({ ...graph.placeOf(this.document, id), ...this.sizeOf(id) })).filter((box) => box.x !== undefined);
    if (!boxes.length) return null;
    const margin = 24, title = 34;
    const x = Math.min(...boxes.map((box) => box.x)) - margin, y = Math.min(...boxes.map((box) => box.y)) - margin - title;
    const right = Math.max(...boxes.map((box) => box.x + box.width)), bottom = Math.max(...boxes.map((box) => box.y + box.height));
    return { x: Math.round(x), y: Math.round(y), width: Math.round(right - x + margin), height: Math.round(bottom - y + margin) };
  }

  sizeOf = (id) => this.sizes(id) ?? guess(this.state.kinds.get(this.document.nodes.get(id)?.kind));

  /** Put the chosen nodes in order; all of them where fewer than two are chosen. */
  arrange(ids) {
    this.change(arrange(this.document, this.sizeOf, ids.length > 1 ? ids : undefined));
    if (ids.length < 2) this.set({ fit: this.state.fit + 1 });
  }

  inputWords(id, name) {
    return this.state.kinds.get(this.document.nodes.get(id).kind)?.byName.get(name)?.label ?? words(name);
  }

  titleOf(id) {
    return titleOf(this.state.kinds, this.document.nodes.get(id));
  }
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
