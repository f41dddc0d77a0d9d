// The fields of a run's parameters, and their values.

import { describeBounds, isWithin } from "./bounds.js";
import { PageError } from "./tensors.js";

/** The types of inputs that are files. */
export const FILES = ["path", "image", "mask", "map"];

/**
 * A field for each input of the page, in an element; returns them by name, since a form's own properties hide fields
 * named `length` or `action`. ranges: of those that choose a table.
 */
export function buildFields(element, inputs, ranges) {
  const fields = new Map();
  for (const [name, input] of Object.entries(inputs)) {
    const own = ranges.filter((item) => item.input === name);
    const range = own.length ? { low: Math.min(...own.map(({ low }) => low)), high: Math.max(...own.map(({ high }) => high)) } : null;
    const label = document.createElement("label");
    label.htmlFor = `input-${name}`;
    label.textContent = name;
    const field = makeField(input, range);
    field.id = label.htmlFor;
    const group = Object.assign(document.createElement("div"), { className: field.type === "textarea" || isList(input) ? "field wide" : "field" });
    const help = document.createElement("p");
    help.className = "help";
    const hint = isList(input) ? "one on each line" : FILES.includes(input.type) ? "choose one, or drop one on it" : "";
    const bounds = range ? `${range.low} to ${range.high}` : describeBounds(input.bounds ?? {}).trim().replace(/^of /, "");
    help.textContent = [input.help, hint, bounds].filter(Boolean).join("; ");
    group.append(label, field, help);
    element.append(group);
    if (FILES.includes(input.type)) help.before(makePreview(field, input.default));
    fields.set(name, field);
  }
  return fields;
}

function makeField({ type, default: value, choices }, range) {
  if (FILES.includes(type)) return Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
  if (isList({ type, default: value })) {
    const lines = (type === "numbers" && !Array.isArray(value?.[0]) ? [value ?? []] : value).map((item) => (Array.isArray(item) ? item.join(", ") : String(item)));
    return Object.assign(document.createElement("textarea"), { value: lines.join("\n"), rows: Math.max(2, lines.length + 1) });
  }
  if (choices || type === "bool") return makeSelect(choices ?? [false, true], value);
  const field = document.createElement(type === "str" ? "textarea" : "input");
  field.value = value ?? "";
  if (type === "str") field.rows = 2;
  else if (range) Object.assign(field, { type: "number", min: range.low, max: range.high, step: 1 });
  else field.inputMode = type === "int" ? "numeric" : "decimal";
  return field;
}

function makeSelect(choices, value) {
  const field = document.createElement("select");
  for (const choice of choices) field.append(new Option(choice, choice, choice === value, choice === value));
  return field;
}

/** The picture of a field for files, on which another one can be dropped. example: the file that stands for none. */
function makePreview(field, example) {
  const picture = Object.assign(document.createElement("img"), { className: "chosen", alt: `the picture of ${field.id.slice(6)}` });
  if (example) picture.src = example;
  field.addEventListener("change", () => {
    URL.revokeObjectURL(picture.src);
    if (field.files.length || example) picture.src = field.files.length ? URL.createObjectURL(field.files[0]) : example;
  });
  picture.addEventListener("dragover", (event) => event.preventDefault());
  picture.addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    field.files = event.dataTransfer.files;
    field.dispatchEvent(new Event("change"));
  });
  return picture;
}

/** The values of the fields by name: BigInt for integers, a File or null for files. */
export function readFields(fields, inputs) {
  return Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, readField(name, input, fields.get(name))]));
}

function readField(name, input, field) {
  if (isList(input)) return readLines(name, input, field.value);
  if (!FILES.includes(input.type)) return readValue(name, input, field.value);
  const [file = null] = field.files;
  if (!file && !input.default) throw new PageError(`${name}: choose a picture`);
  return file;
}

/** Whether the field of an input has a line for each entry of a list. */
function isList({ type, default: value }) {
  return type === "numbers" || (Array.isArray(value) && !FILES.includes(type));
}

/** The entries of a list, one on each line that is not empty; those of `numbers` are lists of numbers themselves. */
export function readLines(name, input, text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  if (input.type !== "numbers") return lines.map((line, i) => readValue(`${name}[${i}]`, input, line));
  const lists = lines.map((line, i) => line.split(/[\s,;]+/).filter(Boolean).map((item) => readValue(`${name}[${i}]`, { type: "float" }, item)));
  return input.many ? lists : lists.flat();
}

export function readValue(name, { type, choices, bounds = {} }, text) {
  if (type === "str") return text;
  if (type === "bool") return text === "true";
  const trimmed = text.trim();
  const isNumber = type === "int" ? /^[+-]?\d+$/.test(trimmed) : trimmed !== "" && Number.isFinite(Math.fround(Number(trimmed)));
  const kind = type === "int" ? "an integer" : "a number";
  if (!isNumber) throw new PageError(`${name}: expected ${kind}, found '${text}'`);
  const value = type === "int" ? BigInt(trimmed.replace("+", "")) : Number(trimmed);
  if (!isWithin(bounds, value)) throw new PageError(`${name}: expected ${kind}${describeBounds(bounds)}, found ${value}`);
  if (choices && !choices.map(String).includes(String(value))) throw new PageError(`${name}: expected one of ${choices.join(", ")}`);
  return value;
}
