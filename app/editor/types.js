// What may be linked with what, in words. The server checks again (nodes/graph/validate.py); this is for the hand that draws the link.
import { feeds, isLink } from "./document.js";

/** The declarations by kind, each with its inputs by name. */
export function byKind(described) {
  return new Map(described.map((each) => [each.key, { ...each, byName: new Map(each.inputs.map((input) => [input.name, input])) }]));
}

/** May an output of type `given` go into an input of type `wanted`? Types may be unions, "A,B", or "*". */
export function accepts(wanted, given) {
  if (wanted === "*" || given === "*") return true;
  const types = new Set(given.split(","));
  return wanted.split(",").some((type) => types.has(type));
}

/** A wire type for people: ROLLOUT_DRIFT_PROBE is "drift probe". */
export const typeWords = (type) =>
  ({ "*": "anything", STRING: "text", COMBO: "a choice", INT: "a whole number", FLOAT: "a number", BOOLEAN: "on or off" })[type] ??
  type.replace(/^ROLLOUT_/, "").replaceAll("_", " ").toLowerCase();

const inWords = (type) => type.split(",").map(typeWords).join(" or ");

/** Why an output must not be linked with an input, or null where it may. `link`: {from, slot, to, input}. */
export function refusal(document, kinds, { from, slot, to, input }) {
  const origin = document.nodes.get(from), target = document.nodes.get(to);
  const gives = kinds.get(origin?.kind)?.outputs[slot], takes = kinds.get(target?.kind)?.byName.get(input);
  if (!gives || !takes) return "One end of this link is not there.";
  if (from === to) return "A node cannot take its own result.";
  if (!accepts(takes.type, gives.type)) {
    return `${titleOf(kinds, origin)} gives ${inWords(gives.type)}, but ${takes.label ?? words(input)} of ${titleOf(kinds, target)} takes ${inWords(takes.type)}.`;
  }
  if (feeds(document, to, from)) return `${titleOf(kinds, origin)} itself waits for ${titleOf(kinds, target)}: the link would make a circle.`;
  return null;
}

/** An input's or output's name for people. */
export function words(name) {
  const spaced = name.replaceAll("_", " ");
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

export const titleOf = (kinds, node) => node.title ?? kinds.get(node.kind)?.title ?? node.kind;

/** The inputs of a kind that take an output of `type`; sockets before fields, required before optional, free before linked. */
export function takers(declared, type, node) {
  const cost = (input) => (input.socket ? 0 : 4) + (input.optional ? 2 : 0) + (isLink(node?.inputs.get(input.name)) ? 1 : 0);
  return declared.inputs.filter((input) => accepts(input.type, type)).sort((a, b) => cost(a) - cost(b));
}

/** The positions of a kind's outputs that an input of `type` takes. */
export const givers = (declared, type) => declared.outputs.flatMap((output, slot) => (accepts(type, output.type) ? [slot] : []));

/** Types that some node gives: only their fields need a socket beside the field. */
export const givenTypes = (kinds) => new Set([...kinds.values()].flatMap((each) => each.outputs.map((output) => output.type)));
