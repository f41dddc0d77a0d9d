"""Descriptions of the inputs of a workflow that is exported as one graph."""

from __future__ import annotations

from guidegraph_runtime.bundle.manifest import Manifest, Operation
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.single_file import DrawRecipe


def describe_input(name: str, draw: DrawRecipe | None, recipe: Manifest) -> str:
    """A sentence that describes an input and the node or parameter that it comes from."""
    if name.startswith("params."):
        parameter = name.removeprefix("params.")
        help = recipe.inputs[parameter].help
        return f"the parameter '{parameter}'" + (f": {help}" if help else "")
    operation = next((candidate for candidate in recipe.plan if name in candidate.outputs), None)
    if operation is None:
        return f"the value '{name}'"
    text = f"{_look_up_meaning(name, operation)}; node '{operation.node}' ({operation.op})"
    if draw is not None and draw.over is not None:
        entries = f"entry of {draw.over}" if isinstance(draw.over, str) else f"of {draw.over} iterations"
        text += ", another for each " + entries
    files = [
        str(value["file"]) for value in operation.settings.values() if isinstance(value, dict) and [*value] == ["file"]
    ]
    return text + (f", with the file {', '.join(files)}" if files else "")


def _look_up_meaning(name: str, operation: Operation) -> str:
    field_name = name.removeprefix(operation.node).rpartition(".")[2]
    help = OPERATIONS[operation.op].output_help if operation.op in OPERATIONS else ""
    text = help if isinstance(help, str) else help.get(field_name, "")
    return text or (f"'{field_name}' of it" if field_name else "what it gives")
