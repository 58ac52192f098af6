// Where nodes stand without a position: from left to right along the links.
import { Graph, layout } from "./vendor/parts.js";
import { links, place, placeOf } from "./document.js";

export const WIDTH = 320; // of a node, unless it was made wider

/** A guess at a node's size before it is drawn. */
export function guess(declared) {
  const rows = declared ? Math.max(declared.inputs.filter((input) => input.socket).length, declared.outputs.length) : 1;
  const fields = declared ? declared.inputs.filter((input) => !input.socket && input.level === "simple").length : 0;
  return { width: WIDTH, height: 60 + 24 * rows + 34 * fields };
}

/** The document with these nodes put in order. `size(id)`: {width, height}. */
export function arrange(document, size, ids = [...document.nodes.keys()]) {
  const chosen = new Set(ids);
  const graph = new Graph();
  graph.setGraph({ rankdir: "LR", ranksep: 70, nodesep: 28, marginx: 0, marginy: 0 });
  graph.setDefaultEdgeLabel(() => ({}));
  ids.forEach((id, index) => graph.setNode(String(index), { ...size(id) })); // numbers: a node may be called "__proto__"
  const numbers = new Map(ids.map((id, index) => [id, String(index)]));
  for (const link of links(document)) {
    if (chosen.has(link.from) && chosen.has(link.to)) graph.setEdge(numbers.get(link.from), numbers.get(link.to));
  }
  layout(graph);
  const at = ids.map((id) => [id, graph.node(numbers.get(id))]);
  const before = corner(ids.map((id) => placeOf(document, id)).filter(Boolean));
  const after = corner(at.map(([, { x, y, width, height }]) => ({ x: x - width / 2, y: y - height / 2 })));
  return place(
    document,
    at.map(([id, { x, y, width, height }]) => [
      id,
      { x: Math.round(x - width / 2 - after.x + before.x), y: Math.round(y - height / 2 - after.y + before.y) },
    ]),
  );
}

function corner(places) {
  if (!places.length) return { x: 0, y: 0 };
  return { x: Math.min(...places.map((each) => each.x)), y: Math.min(...places.map((each) => each.y)) };
}

/** The document with a place for every node: those without one are put in order beside or below the others. */
export function placed(document, size) {
  const missing = [...document.nodes.keys()].filter((id) => placeOf(document, id) === null);
  if (!missing.length) return document;
  const there = [...document.nodes.keys()].map((id) => placeOf(document, id)).filter(Boolean);
  const arranged = arrange(document, size, missing);
  if (!there.length) return arranged;
  const below = Math.max(...there.map((each) => each.y)) + 400, left = corner(there).x;
  const now = corner(missing.map((id) => placeOf(arranged, id)));
  return place(arranged, missing.map((id) => {
    const { x, y } = placeOf(arranged, id);
    return [id, { x: x - now.x + left, y: y - now.y + below }];
  }));
}
