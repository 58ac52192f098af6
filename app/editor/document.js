// A graph as the editor holds it. Everything here is pure: a change gives a new document, which shares what did not change.
//
// It mirrors the file (nodes/graph/graph.py): `nodes` is a Map id -> {kind, inputs, title, muted, bypassed}; `inputs` a Map name -> value as the file
// has it, where ["id", slot] is a link and {"__value__": [...]} a list. `places` and `groups` are the layout. Maps, not objects, because a
// file may name a node "__proto__".

export const FORMAT = "rollout_studio.graph";
export const VERSION = 1;
const MODES = ["muted", "bypassed"];
const CLIP = "rollout_studio.nodes"; // what copied nodes are called on the clipboard
const FARTHEST = 1e6; // a place beyond is no place: the view could not get there

export const EMPTY = Object.freeze({ nodes: new Map(), places: new Map(), groups: [], rest: {} });

export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
export const isLink = (value) =>
  Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && Number.isInteger(value[1]);

const record = (entries) => {
  const made = Object.create(null);
  for (const [name, value] of entries) made[name] = value;
  return made;
};

// ---- file <-> document

/** The document of a file's data. The server has read it before (`nodes.graph.graph.read`); what is not our format is refused here too. */
export function read(data) {
  if (!isObject(data) || data.format !== FORMAT || data.version !== VERSION || !isObject(data.prompt)) {
    throw new Error("This is no workflow of this program.");
  }
  const nodes = new Map();
  for (const [id, given] of Object.entries(data.prompt)) {
    if (!isObject(given) || typeof given.class_type !== "string") throw new Error(`Node ${id} has no kind.`);
    const meta = isObject(given._meta) ? given._meta : {};
    nodes.set(id, {
      kind: given.class_type,
      inputs: new Map(Object.entries(isObject(given.inputs) ? given.inputs : {})),
      title: typeof meta.title === "string" ? meta.title : null,
      muted: meta.muted === true,
      bypassed: meta.bypassed === true,
    });
  }
  const { nodes: places, groups, ...rest } = isObject(data.layout) ? data.layout : {};
  return {
    nodes,
    places: new Map(Object.entries(isObject(places) ? places : {})),
    groups: (Array.isArray(groups) ? groups : []).filter(isGroup),
    rest,
  };
}

/** The file's data of a document: the inverse of `read`. */
export function write(document) {
  const prompt = record(
    [...document.nodes].map(([id, node]) => {
      const modes = MODES.filter((mode) => node[mode]).map((mode) => [mode, true]);
      const meta = { ...(node.title === null ? {} : { title: node.title }), ...Object.fromEntries(modes) };
      const written = { class_type: node.kind, inputs: record(node.inputs) };
      return [id, Object.keys(meta).length ? { ...written, _meta: meta } : written];
    }),
  );
  const layout = { ...document.rest };
  if (document.places.size) layout.nodes = record(document.places);
  if (document.groups.length) layout.groups = document.groups;
  return { format: FORMAT, version: VERSION, prompt, layout };
}

export const toText = (document) => JSON.stringify(write(document), null, 1) + "\n";

const isNumber = (value) => typeof value === "number" && Math.abs(value) <= FARTHEST;

function isGroup(group) {
  return (
    isObject(group) && typeof group.id === "string" && typeof group.title === "string" &&
    ["x", "y", "width", "height"].every((name) => isNumber(group[name]))
  );
}

/** Where a node stands, or null where the file says nothing of use. */
export function placeOf(document, id) {
  const place = document.places.get(id);
  return isObject(place) && isNumber(place.x) && isNumber(place.y) ? place : null;
}

// ---- questions

/** Every link as {from, slot, to, input}. */
export function links(document) {
  const found = [];
  for (const [to, node] of document.nodes) {
    for (const [input, value] of node.inputs) if (isLink(value)) found.push({ from: value[0], slot: value[1], to, input });
  }
  return found;
}

/** Whether `target` gets something from `origin`, through however many nodes. */
export function feeds(document, origin, target) {
  const waiting = [target];
  const seen = new Set();
  while (waiting.length) {
    const id = waiting.pop();
    if (id === origin) return true;
    if (seen.has(id)) continue;
    seen.add(id);
    for (const value of document.nodes.get(id)?.inputs.values() ?? []) if (isLink(value)) waiting.push(value[0]);
  }
  return false;
}

/** Id -> what decides the node's result, as a short text: equal ones give the same (see nodes/execute/cache.py). Titles and places are not in it. */
export function signatures(document) {
  const made = new Map();
  const of = (id) => {
    if (made.has(id)) return made.get(id);
    const node = document.nodes.get(id);
    if (node === undefined) return "?";
    made.set(id, "?"); // met again while it is made: a circle
    const inputs = [...node.inputs].sort(([a], [b]) => (a < b ? -1 : 1));
    const written = inputs.map(([name, value]) => [name, isLink(value) ? [of(value[0]), value[1]] : { value }]);
    made.set(id, fingerprint(JSON.stringify(node.bypassed ? [node.kind, written, "bypassed"] : [node.kind, written])));
    return made.get(id);
  };
  for (const id of document.nodes.keys()) of(id);
  return made;
}

function fingerprint(text) {
  let a = 0x811c9dc5, b = 0x1b873593; // two FNV-1a sums: enough to distinguish "changed" from "the same"
  for (let index = 0; index < text.length; index++) {
    a = Math.imul(a ^ text.charCodeAt(index), 0x01000193);
    b = Math.imul(b ^ text.charCodeAt(index), 0x01000197);
  }
  return `${text.length}.${a >>> 0}.${b >>> 0}`;
}

// ---- changes

const withNode = (document, id, change) => {
  const nodes = new Map(document.nodes);
  nodes.set(id, { ...nodes.get(id), ...change });
  return { ...document, nodes };
};

function freeId(document, wanted, taken = new Set()) {
  const stem = wanted.replace(/_\d+$/, "");
  for (let number = 1; ; number++) {
    const id = number === 1 ? stem : `${stem}_${number}`;
    if (!document.nodes.has(id) && !taken.has(id)) return id;
  }
}

/** [document with a new node, its id]; the id is made from `title`: train, train_2, ... */
export function addNode(document, kind, title, place, inputs = new Map()) {
  const id = freeId(document, title.toLowerCase().replaceAll(/[^a-z0-9]+/g, "_"));
  const nodes = new Map(document.nodes).set(id, { kind, inputs, title: null, muted: false, bypassed: false });
  return [{ ...document, nodes, places: new Map(document.places).set(id, place) }, id];
}

/** Without these nodes, and without the links from them. */
export function removeNodes(document, ids) {
  const gone = new Set(ids);
  const nodes = new Map();
  for (const [id, node] of document.nodes) {
    if (gone.has(id)) continue;
    const kept = [...node.inputs].filter(([, value]) => !(isLink(value) && gone.has(value[0])));
    nodes.set(id, kept.length === node.inputs.size ? node : { ...node, inputs: new Map(kept) });
  }
  return { ...document, nodes, places: new Map([...document.places].filter(([id]) => !gone.has(id))) };
}

/** With one input set; `undefined` takes it away, which means its default, or no link. */
export function setInput(document, id, name, value) {
  const inputs = new Map(document.nodes.get(id).inputs);
  if (value === undefined) inputs.delete(name);
  else inputs.set(name, value);
  return withNode(document, id, { inputs });
}

export const connect = (document, { from, slot, to, input }) => setInput(document, to, input, [from, slot]);

export const setTitle = (document, id, title) => withNode(document, id, { title: title === "" ? null : title.slice(0, 200) });

/** With `muted` (left out, with all that needs it) or `bypassed` (left out, what it was given goes on) set or taken away; never both. */
export function setMode(document, ids, mode, on) {
  const change = { muted: false, bypassed: false, [mode]: on };
  const same = (node) => MODES.every((each) => node[each] === change[each]);
  return ids.reduce((changed, id) => (same(changed.nodes.get(id)) ? changed : withNode(changed, id, change)), document);
}

/** With changed places: an iterable of [id, {x, y, ...}]; what a place holds besides stays. */
export function place(document, changes) {
  const places = new Map(document.places);
  for (const [id, change] of changes) {
    const old = places.get(id);
    places.set(id, { ...(isObject(old) ? old : {}), ...change });
  }
  return { ...document, places };
}

export const setGroups = (document, groups) => ({ ...document, groups });

export function addGroup(document, rectangle, title) {
  const taken = new Set(document.groups.map((group) => group.id));
  let number = 1;
  while (taken.has(`group_${number}`)) number++;
  return setGroups(document, [...document.groups, { id: `group_${number}`, title, ...rectangle }]);
}

export function changeGroup(document, id, change) {
  return setGroups(document, document.groups.map((group) => (group.id === id ? { ...group, ...change } : group)));
}

// ---- the clipboard

/** Some nodes as text for the clipboard; their links from other nodes travel along. */
export function copy(document, ids) {
  const chosen = new Set(ids);
  const { prompt, layout } = write({
    ...EMPTY,
    nodes: new Map([...document.nodes].filter(([id]) => chosen.has(id))),
    places: new Map([...document.places].filter(([id]) => chosen.has(id))),
  });
  return JSON.stringify({ format: CLIP, version: VERSION, prompt, layout });
}

/** The copied nodes in a text from the clipboard as a document, or null where it holds none. */
export function clipped(text) {
  if (text.length > 2 ** 21 || !text.startsWith(`{"format":"${CLIP}"`)) return null;
  try {
    return read({ ...JSON.parse(text), format: FORMAT });
  } catch {
    return null; // another text that begins like ours
  }
}

/** [document with the clip's nodes beside the old ones, their ids]. Links to nodes outside stay where those nodes are there. */
export function paste(document, clip, moved) {
  const names = new Map();
  for (const id of clip.nodes.keys()) names.set(id, freeId(document, id, new Set(names.values())));
  const nodes = new Map(document.nodes);
  const places = new Map(document.places);
  for (const [id, node] of clip.nodes) {
    const inputs = new Map();
    for (const [name, value] of node.inputs) {
      if (!isLink(value)) inputs.set(name, value);
      else if (names.has(value[0])) inputs.set(name, [names.get(value[0]), value[1]]);
      else if (document.nodes.has(value[0])) inputs.set(name, value);
    }
    nodes.set(names.get(id), { ...node, inputs });
    const old = placeOf(clip, id) ?? { x: 0, y: 0 };
    places.set(names.get(id), { ...old, x: old.x + moved.x, y: old.y + moved.y });
  }
  return [{ ...document, nodes, places }, [...names.values()]];
}
