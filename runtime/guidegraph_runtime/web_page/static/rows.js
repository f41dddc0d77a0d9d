// A sampler's table: the rows that the runtime computed for each number of steps when the page was made.

import { PageError } from "./tensors.js";

/**
 * The values of a run that do not depend on graphs, by name.
 *
 * tables: in page.json, by the parameter that chooses them ("" for none), the range of that parameter and the names of
 * the values. tensors: of tables.safetensors, as PARAMETER=VALUE/NAME, or NAME alone. values: of the run's parameters.
 */
export function selectRows(tables, tensors, values) {
  const selected = {};
  for (const [parameter, { low, high, names }] of Object.entries(tables)) {
    if (parameter) checkRange(parameter, values[parameter], low, high);
    for (const name of names) selected[name] = tensors[parameter ? `${parameter}=${values[parameter]}/${name}` : name];
  }
  return selected;
}

function checkRange(parameter, value, low, high) {
  if (value < low || value > high) {
    throw new PageError(`${parameter}: this page holds the tables of ${low} to ${high}, found ${value}`);
  }
}
