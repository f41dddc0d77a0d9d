"""A bundle with one weight that a LoRA may change, and LoRAs for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from safetensors.numpy import save_file

from tests.runtime.running import bundles

LAYER = "unet.layer"
WEIGHTS = np.eye(4, dtype=np.float32)
DOWN, UP = np.full((2, 4), 0.5, np.float32), np.full((4, 2), 0.25, np.float32)
"""The factors of `write_lora`, of rank 2."""


def write_adaptable_bundle(root: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """A bundle that gives `x`: noise of the input `seed`, times `scale`, times the weight of the layer `unet.layer`.

    change: edits `bundle.json` before it is written.
    """
    nodes = [helper.make_node("Mul", ["x", "scale"], ["scaled"]), helper.make_node("MatMul", ["scaled", "w"], ["y"])]
    step = bundles.model(bundles.step_graph(nodes, bundles.external("w", "step.onnx.data", [4, 4], length=64)))
    table = {
        "weights": {
            "step": [{"weight": "w", "dtype": "float32", "shape": [4, 4], "transposed": True, "names": [LAYER]}]
        },
        "frozen": {},
    }

    def add_table(value: dict[str, Any]) -> None:
        data = json.dumps(table).encode()
        (root / "lora.json").write_bytes(data)
        value["files"]["lora.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        value["inputs"] = {"scale": {"type": "float", "default": 1.0}, "seed": {"type": "int", "default": 0}}
        noise = {"op": "noise.gaussian", "node": "noise", "in": {"seed": "params.seed"}, "with": {"shape": [4]}}
        part = {"op": "part", "node": "step", "in": {"x": "noise", "scale": "params.scale"}, "with": {}, "out": ["y"]}
        value["plan"] = [{**noise, "out": ["noise"]}, part]
        value["outputs"] = {"x": {"type": "tensor", "source": "y"}}
        del value["reference"]
        if change is not None:
            change(value)

    return bundles.write_bundle(root, step, WEIGHTS.tobytes(), add_table)


def write_lora(path: Path, layer: str = LAYER) -> Path:
    """A LoRA in peft's layout, without an α."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{layer}.lora_A.weight": DOWN, f"{layer}.lora_B.weight": UP}, path)
    return path


def write_peft_folder(folder: Path, config: str) -> Path:
    """A folder as peft writes it. config: the text of its adapter_config.json."""
    write_lora(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(config)
    return folder
