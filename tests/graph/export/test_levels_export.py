"""Levels in a bundle: the model's own data come with its schedule, and the number of steps stays free."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.graph.export.exporting import made

WORKFLOW = """
guidegraph: 1
params: {steps: 4}
nodes:
  model:  {use: model.load, with: {path: "pkg:scenes"}}
  levels: {use: levels.karras, in: {schedule: model.schedule, steps: params.steps}}
  wired:  {use: scheduler.dpmpp_2m, in: {schedule: model.schedule, levels: levels}}
  short:  {use: scheduler.heun, in: {schedule: model.schedule, steps: params.steps}}
outputs: {wired: wired.steps, short: short.steps}
"""


def test_a_bundle_visits_the_levels_that_its_model_knows_with_any_number_of_steps(tmp_path: Path) -> None:
    workflow = tmp_path / "levels.yaml"
    workflow.write_text(WORKFLOW, encoding="utf-8")
    exported = made(workflow, tmp_path)
    for steps in (4, 7):
        engine, bundle = exported.engine(tmp_path, steps=steps), exported.run(steps=steps)
        assert engine["short"][0] == engine["wired"][0] == 957
        for name in engine:
            np.testing.assert_array_equal(bundle[name], engine[name])
    other = exported.run({"short.use": "scheduler.dpm2"}, steps=5)
    np.testing.assert_array_equal(
        other["short"], exported.engine(tmp_path, [("scheduler.heun", "scheduler.dpm2")], steps=5)["short"]
    )
