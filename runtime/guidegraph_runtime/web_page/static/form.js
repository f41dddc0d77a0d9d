// The fields of a run's parameters, and their values.

import { describeBounds, isWithin } from "./bounds.js";
import { PageError } from "./tensors.js";

/**
 * A field for each input of the page, in an element; returns them by name, since a form's own properties hide fields
 * named `length` or `action`. tables: the ranges of those that choose a table.
 */
export function buildFields(element, inputs, tables) {
  const fields = new Map();
  for (const [name, input] of Object.entries(inputs)) {
    const range = Object.hasOwn(tables, name) ? tables[name] : null;
    const label = document.createElement("label");
    label.htmlFor = `input-${name}`;
    label.textContent = name;
    const field = makeField(input, range);
    field.id = label.htmlFor;
    const help = document.createElement("p");
    help.className = "help";
    help.textContent = [input.help, range ? `${range.low} to ${range.high}` : describeBounds(input.bounds ?? {}).trim()].filter(Boolean).join("; ");
    element.append(label, field, help);
    fields.set(name, field);
  }
  return fields;
}

function makeField({ type, default: value, choices }, range) {
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

/** The values of the fields by name: BigInt for integers. */
export function readFields(fields, inputs) {
  return Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, readValue(name, input, fields.get(name).value)]));
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
