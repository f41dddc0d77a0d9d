"""Descriptions of the inputs of a workflow that is exported as one graph."""

from __future__ import annotations

from guidegraph_runtime.bundle.manifest import Manifest, Operation
from guidegraph_runtime.running.single_file import NoiseRecipe

MEANING = {
    "text.tokenize.ids": "token ids of the texts, padded",
    "text.tokenize.mask": "true where a token counts",
    "noise.gaussian": "standard normal noise",
    "label.constant": "class indices",
    "label.cycle": "class indices",
    "image.load": "a picture, 0 to 255 as -1 to 1, colours first",
    "mask.load": "1 where something is made anew, 0 where the picture stays",
    "mask.box": "1 where something is made anew, 0 where the picture stays",
    "semantic.load": "a one-hot map of classes",
    "steps": "the time of each of the model's calls, from noise to picture",
    "matrix": "the sampler's linear maps [x', s'] = M [x, x0, eps, noise, s1 … s4], one for each of the model's calls",
    "alpha": "how much of the picture is left at each call",
    "sigma": "how much noise there is at each call",
    "t": "the time of each call",
    "score_gain": "how much of a score is added at each call",
    "log_variance": "the logarithms of the least and the largest variance of each call",
    "index": "the row of the table with which to start: 0",
    "slots": "what the sampler keeps from call to call, at the start: zeros",
}


def describe_input(name: str, noise: NoiseRecipe | None, recipe: Manifest) -> str:
    """A sentence that describes an input and the node or parameter that it comes from."""
    if name.startswith("params."):
        parameter = name.removeprefix("params.")
        help = recipe.inputs[parameter].help
        return f"the parameter '{parameter}'" + (f": {help}" if help else "")
    operation = next((candidate for candidate in recipe.plan if name in candidate.outputs), None)
    if operation is None:
        return f"the value '{name}'"
    text = f"{_look_up_meaning(name, operation)}; node '{operation.node}' ({operation.op})"
    if noise is not None and noise.over is not None:
        text += ", another for each entry of " + noise.over
    files = [
        str(value["file"]) for value in operation.settings.values() if isinstance(value, dict) and [*value] == ["file"]
    ]
    return text + (f", with the file {', '.join(files)}" if files else "")


def _look_up_meaning(name: str, operation: Operation) -> str:
    field_name = name.removeprefix(operation.node).rpartition(".")[2]
    for key in (
        f"{operation.op}.{field_name}",
        operation.op,
        field_name if operation.op.startswith("scheduler.") else "",
    ):
        if key in MEANING:
            return MEANING[key]
    return f"'{field_name}' of it" if field_name else "what it gives"
