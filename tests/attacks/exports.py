"""Attacks by a bundle from a stranger: ``guidegraph-run bundle``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from tests.attacks.arena import Arena, Outcome, attack
from tests.runtime.running import bundles
from tests.runtime.running.bundles import FLOAT, external, inside, model, step_graph, write_bundle

Change = Callable[[dict[str, Any]], None]


def add_reader(path: str, inputs: dict[str, Any] | None = None) -> Change:
    """A change of the manifest that adds the picture in a file to the outputs."""

    def change(value: dict[str, Any]) -> None:
        wiring = {"in": {"path": path}, "with": {}} if inputs else {"in": {}, "with": {"path": path}}
        value["plan"].insert(0, {"op": "image.load", "node": "photo", **wiring, "out": ["photo"]})
        value["inputs"] = (inputs or {}) | {"scale": {"type": "float", "default": 1.5}}
        value["outputs"] = {"picture": {"type": "image", "source": "photo"}}
        del value["reference"]
        del value["files"]["reference/total.bin"]

    return change


def bundle_of(arena: Arena, change: Change) -> Path:
    root = write_bundle(arena.folder / "bundle", change=change)
    (root / "reference" / "total.bin").unlink()
    (root / "reference").rmdir()
    return root


@attack("a bundle whose plan reads a local picture into an output", "forbidden-read")
def reads_photo(arena: Arena) -> Outcome:
    return arena.run_bundle(bundle_of(arena, add_reader(str(arena.photo))), "--out", "out")


@attack("a bundle that is only described, whose plan reads a local picture", "forbidden-read")
def describes_bundle(arena: Arena) -> Outcome:
    return arena.run_bundle(bundle_of(arena, add_reader(str(arena.photo))), "--describe")


@attack("a bundle whose plan reads a file named by the default of a text input", "a file that the person gives")
def reads_by_text(arena: Arena) -> Outcome:
    change = add_reader("params.photo", {"photo": {"type": "str", "default": str(arena.photo)}})
    return arena.run_bundle(bundle_of(arena, change), "--out", "out")


@attack("a bundle whose default for a picture is a local file", "bad-manifest")
def reads_by_default(arena: Arena) -> Outcome:
    change = add_reader("params.photo", {"photo": {"type": "path", "default": str(arena.photo)}})
    return arena.run_bundle(bundle_of(arena, change), "--out", "out")


@attack("a bundle whose loop runs over the paths of local pictures", "a file that the person gives")
def reads_in_loop(arena: Arena) -> Outcome:
    def change(value: dict[str, Any]) -> None:
        add_reader("params.photo", {"photo": {"type": "str", "default": [str(arena.photo)], "many": True}})(value)
        load = value["plan"][0]
        value["plan"][0] = {
            "op": "loop",
            "node": "each",
            "in": {},
            "with": {"over": "params.photo", "item": "each.file", "collect": {"photos": "photo"}},
            "out": ["photos"],
            "body": [{**load, "in": {"path": "each.file"}}],
        }
        value["outputs"] = {"picture": {"type": "tensor", "source": "photos"}}

    return arena.run_bundle(bundle_of(arena, change), "--out", "out")


def with_weights(arena: Arena, location: str) -> Outcome:
    root = write_bundle(
        arena.folder / "bundle", step=model(step_graph(weights=external("w", location, [4], length=16)))
    )
    return arena.run_bundle(root, "--set", "x=x.npy", "--out", "out")


@attack("a bundle whose graph takes its weights from a local file", "bad-graph")
def weights_outside(arena: Arena) -> Outcome:
    return with_weights(arena, str(arena.protected_file))


@attack("a bundle whose graph takes its weights from a parent folder", "bad-graph")
def weights_above(arena: Arena) -> Outcome:
    return with_weights(arena, "../../../outside/kept.txt")


@attack("a bundle with a symbolic link instead of its weights", "bad-file")
def weights_linked(arena: Arena) -> Outcome:
    root = write_bundle(arena.folder / "bundle")
    (root / "parts" / "step.onnx.data").unlink()
    (root / "parts" / "step.onnx.data").symlink_to(arena.protected_file)
    return arena.run_bundle(root, "--describe")


@attack("a bundle with a hard link to a local file", "bad-file")
def hard_linked(arena: Arena) -> Outcome:
    data = arena.protected_file.read_bytes()

    def change(value: dict[str, Any]) -> None:
        value["files"]["kept.txt"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    root = write_bundle(arena.folder / "bundle", change=change)
    os.link(arena.protected_file, root / "kept.txt")
    return arena.run_bundle(root, "--describe")


@attack("a bundle with a pipe instead of a graph, which would block forever", "bad-file")
def graph_pipe(arena: Arena) -> Outcome:
    root = write_bundle(arena.folder / "bundle")
    (root / "parts" / "step.onnx").unlink()
    os.mkfifo(root / "parts" / "step.onnx")
    return arena.run_bundle(root, "--describe")


@attack("a bundle whose graph calls an operator from a custom library", "bad-graph")
def custom_operator(arena: Arena) -> Outcome:
    nodes = [helper.make_node("Evil", ["x"], ["y"], domain="evil.ops")]
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 4]), helper.make_tensor_value_info("scale", FLOAT, [])],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", 4])],
        [inside("w", bundles.WEIGHTS)],
    )
    root = write_bundle(arena.folder / "bundle", step=model(graph, {"": bundles.OPSET, "evil.ops": 1}))
    return arena.run_bundle(root, "--describe")


@attack("a bundle whose output would overwrite the bundle itself", "no-folder")
def overwrites_itself(arena: Arena) -> Outcome:
    root = write_bundle(arena.folder / "bundle")
    np.save(arena.folder / "x.npy", np.zeros((1, 4), np.float32))
    return arena.run_bundle(root, "--set", "x=x.npy", "--out", root)


@attack("a bundle with an output name that leads out of the output folder", "bad-manifest")
def output_name(arena: Arena) -> Outcome:
    def change(value: dict[str, Any]) -> None:
        value["outputs"] = {"../../outside/kept": value["outputs"]["total"]}
        value["reference"]["outputs"] = {"../../outside/kept": "reference/total.bin"}

    return arena.run_bundle(write_bundle(arena.folder / "bundle", change=change), "--describe")
