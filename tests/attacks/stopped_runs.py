"""Attacks by a stranger's file of a stopped run, which your own workflow goes on from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from guidegraph.graph.values.serialise import read_checked, write_checked
from tests.attacks.arena import Arena, Outcome, attack
from tests.attacks.files import overwrite

SUM = """
guidegraph: 1
params: {count: 3, photo: {default: mine.png, type: Path}}
nodes:
  photo: {use: image.load, in: {path: params.photo}}
  start: {use: noise.gaussian, with: {shape: [3, 4, 4]}}
  sum:
    loop: {over: params.count, as: i}
    carry: {x: start}
    body: {next: {use: noise.gaussian, in: {like: carry.x, index: loop.index}}}
    next: {x: next}
outputs: {photo: photo, x: sum.x}
"""


def stop(arena: Arena, *options: str | Path) -> tuple[Path, Path]:
    """A workflow, and the file of its run that was stopped after an iteration."""
    workflow = arena.folder / "own.yaml"
    workflow.write_text(SUM)
    (arena.folder / "mine.png").write_bytes(arena.photo.read_bytes())
    assert arena.run("run", workflow, "--stop-at", "1", "--out", "part", *options).code == 0
    return workflow, arena.folder / "part" / "stopped-sum-0001.safetensors"


@attack("a stopped run whose parameters name a local picture", "forbidden-read")
def parameter_names_photo(arena: Arena) -> Outcome:
    workflow, file = stop(arena, "--set", f"photo={arena.photo}")
    return arena.run("run", workflow, "--resume", file, "--out", "out")


@attack("a stopped run that is a pickle with a command", "bad-state")
def state_is_a_pickle(arena: Arena) -> Outcome:
    workflow, file = stop(arena)
    file.write_bytes(pickle.dumps(overwrite(arena), protocol=2))
    return arena.run("run", workflow, "--resume", file, "--out", "out")


@attack("a stopped run whose values name a class that is not a port type", "bad-state")
def state_names_a_class(arena: Arena) -> Outcome:
    workflow, file = stop(arena)
    metadata, tensors = read_checked(file)
    value = {"struct": "subprocess.Popen", "fields": {"args": {"list": ["touch", str(arena.outside / "made")]}}}
    tree = {"carry": {"dict": {"x": value}}, "collected": {"dict": {}}}
    write_checked(file, tensors, {**metadata, "tree": json.dumps(tree)})
    return arena.run("run", workflow, "--resume", file, "--out", "out")
