"""The page's walk of a plan gives the results of the runtime's table of cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plugins.browser.tests.modules import run_script
from tests.runtime.running.plan_cases import CASES, TABLE, read_value

SCRIPT = """
import { PlanRun } from "./plan.js";
import { toTensor } from "./tensors.js";
const TYPES = { float32: Float32Array, int64: BigInt64Array };
const parts = Object.fromEntries(Object.entries(given.parts).map(([name, { inputs }]) => [name, { inputs }]));
const map = (tensor, change) => ({ ...tensor, data: tensor.data.map(change) });
const GRAPHS = {
  double: ({ x }) => ({ doubled: map(x, (number) => 2 * number) }),
  add: ({ a, b }) => ({ sum: map(a, (number, i) => number + b.data[i]) }),
  keep: ({ a }) => ({ sum: a }),
};
const read = (value) => {
  if (typeof value === "number") return BigInt(value);
  return value.dtype ? { ...value, data: TYPES[value.dtype].from(value.data) } : value;
};
const runCase = async ({ plan, values, expected }) => {
  const calls = [];
  const ends = [];
  const call = async (name, inputs) => (calls.push(name), GRAPHS[name](inputs));
  const progress = async (done, total, { node }) => { if (done === total) ends.push([node, total]); };
  const start = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, read(value)]));
  const run = new PlanRun({ values: start, parts, files: {}, call, progress });
  try {
    await run.run(plan);
  } catch ({ message }) {
    return { message, calls };
  }
  const shown = Object.keys(expected).map((name) => [name, toTensor(run.read(name))]);
  return { calls, ends, values: Object.fromEntries(shown) };
};
const results = [];
for (const item of given.cases) results.push(await runCase(item));
show(results);
"""


def test_a_page_runs_each_plan_of_the_table(tmp_path: Path) -> None:
    cases = [case for case in CASES if "not_in_page" not in case]
    results = run_script(tmp_path, SCRIPT, {"parts": TABLE["parts"], "cases": cases})
    for case, result in zip(cases, results, strict=True):
        name = case["name"]
        assert result["calls"] == case.get("calls", []), name
        if "error" in case:
            assert all(piece in result["message"] for piece in case["error"]), name
            continue
        outer = {operation["node"] for operation in case["plan"]}
        assert [total for node, total in result["ends"] if node in outer] == case.get("iterations", []), name
        for at, value in case["expected"].items():
            shown, expected = result["values"][at], read_value(value)
            assert (shown["dtype"], shown["dims"]) == (str(expected.dtype), [*expected.shape]), name
            assert np.array_equal(np.array(shown["data"], expected.dtype), expected.ravel()), name
