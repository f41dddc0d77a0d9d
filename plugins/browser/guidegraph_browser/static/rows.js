// A sampler's table: the rows that the runtime computed for each number of steps when the page was made.

import { PageError, countElements } from "./tensors.js";

/**
 * The values of a run that do not depend on graphs, by name.
 *
 * ranges: in page.json, each with the parameter that chooses its values ("" for none), its range, and the names of the
 * values; with a share, a parameter that is the share of the steps to take, each number of steps has values of its own.
 * tensors: of tables.safetensors, as NAME, PARAMETER=VALUE/NAME, or PARAMETER*SHARE/NAME with the different rows, /index
 * with the rows of all tables and /starts with the start of each; those for a word of a choice begin with CHOICE=WORD/.
 * values: of the run's parameters.
 */
export function selectRows(ranges, tensors, values) {
  const selected = {};
  for (const { input, share, low, high, names, scalar, choice, value } of ranges) {
    if (choice) {
      const words = ranges.filter((range) => range.choice === choice).map((range) => range.value);
      if (!words.includes(values[choice])) throw new PageError(`${choice}: this page holds the tables of ${words.join(", ")}, found ${values[choice]}`);
      if (values[choice] !== value) continue;
    }
    const prefix = choice ? `${choice}=${value}/` : "";
    if (input) checkRange(input, values[input], low, high);
    if (share) {
      const kept = countKept(share, Number(values[input]), values[share]);
      let number = kept - 1; // of the table: before it are those of fewer steps, from `low` on
      for (let steps = low; steps < values[input]; steps++) number += steps;
      for (const name of names) selected[name] = takeRows(tensors, `${prefix}${input}*${share}/${name}`, number, scalar.includes(name));
    } else {
      for (const name of names) selected[name] = tensors[prefix + (input ? `${input}=${values[input]}/${name}` : name)];
    }
  }
  return selected;
}

function checkRange(parameter, value, low, high) {
  if (value < low || value > high) {
    throw new PageError(`${parameter}: this page holds the tables of ${low} to ${high}, found ${value}`);
  }
}

/** The number of last steps that a share of the steps is: rounded down, at least one. */
function countKept(parameter, steps, share) {
  if (!(share > 0 && share <= 1)) throw new PageError(`${parameter}: expected a number above 0 and at most 1, found ${share}`);
  return Math.max(1, Math.trunc(steps * share + 1e-6));
}

/** The value of a table by its number; without an axis if it is a scalar. */
function takeRows(tensors, key, number, isScalar) {
  const { dtype, dims, data } = tensors[key];
  const [start, end] = tensors[`${key}/starts`].data.subarray(number, number + 2);
  const inner = dims.slice(1);
  const size = countElements(inner);
  const taken = new data.constructor((end - start) * size);
  tensors[`${key}/index`].data.subarray(start, end).forEach((row, i) => taken.set(data.subarray(row * size, (row + 1) * size), i * size));
  return { dtype, dims: isScalar ? inner : [end - start, ...inner], data: taken };
}
