"""What `waiting.py --beside` starts beside the engine, each in a process of its own: KIND FOLDER.

bare: the network of a model folder in a PyTorch loop of three guided DDIM steps, without the engine. onnxruntime,
openvino: all graphs of a bundle, each called three times with random inputs, without the runtime.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALLS = 3
SIZES = {"height": 32, "width": 32}
"""Free axes of the graphs; the others are 1."""
NUMBERS = {"float": np.float32, "float32": np.float32, "double": np.float64, "float64": np.float64, "int64": np.int64}


def draw_bare(folder: Path) -> None:
    import torch

    from guidegraph.nodes.models.store import load_part

    def load(part: str) -> Any:
        return load_part(folder, part, device=torch.device("cpu"), dtype=torch.float32)

    denoiser, label = load("denoiser"), load("label")
    with torch.no_grad():
        vector = torch.cat([label(torch.tensor([7])).vector] * 2)
        x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        for t, alpha, sigma, next_alpha, next_sigma in ((999.0, 0.1, 0.99, 0.6, 0.8), (499.0, 0.6, 0.8, 0.9, 0.43)):
            eps = guide(denoiser.network, x, t, vector)
            x = next_alpha * (x - sigma * eps) / alpha + next_sigma * eps
        eps = guide(denoiser.network, x, 99.0, vector)
        print(float(((x - 0.43 * eps) / 0.9).clamp(-1, 1).mean()))


def guide(network: Any, x: Any, t: float, vector: Any) -> Any:
    """Classifier-free guidance of scale 2."""
    import torch

    cond, uncond = network(torch.cat([x, x]), torch.full((2,), t), vector=vector).chunk(2)
    return uncond + 2 * (cond - uncond)


def call_onnxruntime(bundle: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for path in sorted(bundle.glob("*.onnx")):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {
            port.name: make_input(
                [SIZES.get(size, 1) if isinstance(size, str) else size for size in port.shape], port.type[7:-1]
            )
            for port in session.get_inputs()
        }
        for _ in range(CALLS):
            session.run(None, inputs)


def call_openvino(bundle: Path) -> None:
    openvino = import_module("openvino")
    for path in sorted(bundle.glob("*.onnx")):
        model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": 1})
        inputs = [
            make_input(find_shape(port.partial_shape), port.element_type.to_dtype().name) for port in model.inputs
        ]
        for _ in range(CALLS):
            model(inputs)


def find_shape(shape: Any) -> list[int]:
    """The shape of a port of OpenVINO, whose free axes have no names: the last two of four or more are a picture's."""
    sides = range(len(shape) - 2, len(shape)) if len(shape) > 3 else range(0)
    free = [32 if axis in sides else 1 for axis in range(len(shape))]
    return [size.get_length() if size.is_static else free[axis] for axis, size in enumerate(shape)]


def make_input(shape: list[int], kind: str) -> NDArray[Any]:
    """Random numbers in [0, 1), or zeros for integers: any value is a valid index."""
    return np.asarray(np.random.default_rng(0).random(shape)).astype(NUMBERS[kind])


if __name__ == "__main__":
    {"bare": draw_bare, "onnxruntime": call_onnxruntime, "openvino": call_openvino}[sys.argv[1]](Path(sys.argv[2]))
