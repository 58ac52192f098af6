// A node's fields: which control shows an input, and how its value is shown and read. Bounds are reported at once; the server decides.
import { isObject } from "./document.js";

/** Which control shows an input: switch, choice, slider, number, lines, area or line. */
export function control(input) {
  if (input.type === "BOOLEAN") return "switch";
  if (input.type === "COMBO") return "choice";
  if (input.type === "INT" || input.type === "FLOAT") return isSlider(input) ? "slider" : "number";
  if (input.value_type === "list[str]" && input.multiline) return "lines";
  return input.name === "text" ? "area" : "line";
}

/** As in the form (forms.py): whole numbers on at most 100 places, or a share from 0 to 1 in hundredths. */
function isSlider({ type, minimum, maximum }) {
  if (minimum === null || maximum === null) return false;
  if (type === "INT") return maximum - minimum <= 100;
  return minimum === 0 && maximum > 0.9 && maximum <= 1 && !(maximum > 0.99 && maximum < 1);
}

export const sliderStep = (input) => (input.type === "INT" ? 1 : 0.01);

const unwrapped = (value) => (isObject(value) && "__value__" in value ? value.__value__ : value);

/** A value of the file as its control shows it: true or false for a switch, else text. */
export function shown(input, value) {
  const plain = unwrapped(value === undefined ? input.default : value);
  if (input.type === "BOOLEAN") return plain === true;
  if (plain === null || plain === undefined) return input.type === "COMBO" ? "unset" : "";
  if (Array.isArray(plain)) return plain.join(control(input) === "lines" ? "\n" : ", ");
  return String(plain);
}

/** What a control holds as a value of the file; undefined where it is the default. What cannot be read stays text, and is reported. */
export function read(input, raw) {
  const value = parsed(input, raw);
  return JSON.stringify(value) === JSON.stringify(input.default) ? undefined : value;
}

function parsed(input, raw) {
  if (input.type === "BOOLEAN") return raw;
  if (input.type === "COMBO") {
    if (input.unsettable && raw === "unset") return null;
    return input.value_type === "bool" ? raw === "true" : raw;
  }
  if (input.value_type.startsWith("list")) {
    const items = control(input) === "lines" ? raw.split("\n") : raw.split(",").map((item) => item.trim());
    const kept = items.filter((item) => item.trim() !== "");
    if (input.value_type === "list[str]") return { __value__: kept };
    const numbers = kept.map(number);
    return numbers.includes(undefined) ? raw : { __value__: numbers };
  }
  if (input.unsettable && raw.trim() === "") return null;
  if (input.value_type === "str") return raw;
  return number(raw) ?? raw;
}

function number(text) {
  const value = text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : undefined;
}

/** What is wrong with a value of the file, as far as it can be seen here; null where nothing is. */
export function fault(input, value) {
  const plain = unwrapped(value === undefined ? input.default : value);
  if (plain === null || !["int", "float"].includes(input.value_type)) return null;
  if (typeof plain !== "number") return "Must be a number.";
  if (input.value_type === "int" && !Number.isInteger(plain)) return "Must be a whole number.";
  if (input.minimum !== null && plain < input.minimum) return `Must be at least ${input.minimum}.`;
  if (input.maximum !== null && plain > input.maximum) return `Must be at most ${input.maximum}.`;
  return null;
}
