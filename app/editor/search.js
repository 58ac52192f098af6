// Finding a node to add: by any of its words, and only what fits where a link was dropped.
import { givers, takers } from "./types.js";

/** The declarations that match a query, best first, a whole title before all others; all of them, in the order of the menu, for an empty one. */
export function find(kinds, query, fits = () => true) {
  const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
  return [...kinds.values()]
    .filter(fits)
    .map((each, order) => ({ each, order, whole: each.title.toLowerCase() === query.trim().toLowerCase(), score: wanted.reduce((sum, word) => sum + scoreOf(each, word), 0) }))
    .filter(({ score }) => Number.isFinite(score))
    .sort((a, b) => b.whole - a.whole || a.score - b.score || a.order - b.order)
    .map(({ each }) => each);
}

function scoreOf(each, word) {
  const title = each.title.toLowerCase();
  if (title.startsWith(word)) return 0;
  if (title.includes(word)) return 1;
  if (each.aliases.some((alias) => alias.toLowerCase().includes(word))) return 2;
  if (each.category.toLowerCase().includes(word)) return 3;
  if (each.inputs.some((input) => input.name.includes(word) || input.label?.toLowerCase().includes(word))) return 4;
  return each.help.toLowerCase().includes(word) ? 5 : Infinity;
}

/** A filter for `find`: what can go on from a dropped link. `end`: {type, wants: "takers" | "givers"}. */
export const fitting = ({ type, wants }) =>
  (each) => (wants === "takers" ? takers(each, type) : givers(each, type)).length > 0;
