"""Write the goldens of test_goldens.py: ``python -m tests.whole.make_goldens [NAME …]``, from the root of the checkout.

NAME: ``outputs``, ``plans``, ``state`` (a training's checkpoint and a cache), ``exports`` or ``picture``; all without
one. Those in the repository were written on commit 4cbc301, before the modules moved. They are there to prove that
old files and old results stay: write them again only where a result changes on purpose.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from guidegraph import load_workflow
from guidegraph_runtime import Bundle, SessionSettings
from tests.commands.command import process
from tests.whole.golden_cases import CASES, GOLDENS, ROOT, WORKFLOWS, pack_outputs, write_goldens
from tests.whole.golden_internals import fix_sources, plan_digests

NODES = str(Path(__file__).with_name("golden_nodes.py"))
SETTINGS = {"batch": 2, "seed": 9, "scale": 1.5}
"""Inputs of the exported bundle and of the single file, other than those at export."""


def guidegraph(*arguments: str | Path, folder: Path) -> None:
    done = process(arguments, folder)
    if done.returncode:
        raise RuntimeError(done.stderr)


def plans_of_workflows() -> dict[str, Any]:
    """The digests of the steps of every shipped workflow, by its file."""
    with fix_sources():
        files = sorted(WORKFLOWS.rglob("*.yaml"))
        return {path.relative_to(WORKFLOWS).as_posix(): plan_digests(load_workflow(path)) for path in files}


def write_outputs() -> None:
    goldens = {}
    for case in CASES:
        with TemporaryDirectory() as folder:
            goldens[case.name] = pack_outputs(case.run(Path(folder)), Path(folder))
    write_goldens(goldens, GOLDENS)


def write_plans() -> None:
    lines = (
        f" {json.dumps(name)}: {json.dumps(plan, separators=(',', ':'))}" for name, plan in plans_of_workflows().items()
    )
    (GOLDENS / "plans.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_state() -> None:
    for name in ("training", "cache"):
        shutil.rmtree(GOLDENS / name, ignore_errors=True)
    with fix_sources():
        training = load_workflow(GOLDENS / "training.yaml", cache="off")
        training.run(steps=2, checkpoint=str(GOLDENS / "training"))
        load_workflow(GOLDENS / "cache.yaml", cache=GOLDENS / "cache").run()
    (GOLDENS / "training" / ".state.safetensors.lock").unlink(missing_ok=True)


def write_exports() -> None:
    bundle, single = GOLDENS / "bundle", GOLDENS / "single" / "export.onnx"
    for folder in (bundle, single.parent):
        shutil.rmtree(folder, ignore_errors=True)
    single.parent.mkdir()
    common = ("export", GOLDENS / "export.yaml", "--plugin", NODES)
    guidegraph(*common, "-o", bundle, folder=ROOT)
    guidegraph(*common, "-o", single, "--single-file", folder=ROOT)
    session = SessionSettings.on("cpu", intra_threads=1)
    image = Bundle(bundle, session).run(**SETTINGS)["image"]
    np.save(GOLDENS / "exported.npy", ((image + 1) * 127.5).round().astype(np.uint8))


def write_picture() -> None:
    with TemporaryDirectory() as folder:
        words = ["run", WORKFLOWS / "text_to_image.yaml", "--set", "steps=2", "--set", "seed=4", "--out", folder]
        guidegraph(*words, folder=ROOT)
        shutil.copy(Path(folder) / "image.png", GOLDENS / "picture.png")


WRITERS: dict[str, Callable[[], None]] = {
    "outputs": write_outputs,
    "plans": write_plans,
    "state": write_state,
    "exports": write_exports,
    "picture": write_picture,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or WRITERS:
        WRITERS[name]()
