"""A shipped workflow under test: its settings, changes of each parameter, and what the engine makes of them."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from tests.paths import ROOT
from tests.whole.commands import write_model

if TYPE_CHECKING:
    from guidegraph.workflow import Workflow

WORKFLOWS = ROOT / "workflows"
PLUGIN = "soft"
GENERATED = "new-plugin"
"""The row of the workflow that ``guidegraph new-plugin`` writes."""

SMALL = {"steps": 3, "batch": 1}
"""The settings of every run, where a workflow has such a parameter."""
MORE_STEPS = {"fast/guidance_interval": {"steps": 5}}
"""Where the step after the first one must be in the interval of timesteps that are guided."""
CHANGES: dict[str, Any] = {
    "prompt": "a black cat at night",
    "negative": "a red car",
    "label": 3,
    "sky": 2,
    "start": "picture",
    "objects": ["a green car", "a white rabbit"],
    "boxes": [[0.1, 0.5, 0.4, 0.9], [0.5, 0.5, 0.9, 0.9]],
    "steps": 4,
    "batch": 2,
    "strength": 0.4,
    "low": 700.0,
    "high": 900.0,
    "every": 3,
    "site": "deep.up.3",
}
PICTURES = ("image", "mask", "map")
"""The parameters that are files of pictures."""
LOADED = ("model", "planner", "guide", "embedder", "detector", "lora", "scenes", "denoiser", "provider", "threads")
"""The parameters that say which network is loaded and how: changing them takes another network, not another value."""
TRANSFORMERS = {
    "text_to_image_dit": "model.dit, with: {patch: 2, width: 128, depth: 2, heads: 2, grid: 8, kind: flow}",
    "text_to_image_mmdit": "model.mmdit, with: {patch: 2, width: 32, depth: 2, heads: 2, side: 8, kind: flow}",
}
"""Small networks for the workflows whose models are trained first."""
SMALL_TRANSFORMER = """
guidegraph: 1
params: {{path: {{type: Path}}}}
nodes:
  denoiser: {{use: {network}}}
  schedule: {{use: schedule.flow, with: {{train_steps: 1000}}}}
  saved:    {{use: model.save, in: {{denoiser: denoiser, schedule: schedule, path: params.path}}}}
outputs: {{model: saved}}
"""


@dataclass(frozen=True)
class Printed:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def check(self) -> Printed:
        """The same; raises ``AssertionError`` with its message unless the command has succeeded."""
        assert self.code == 0, f"exit code {self.code}: {self.err.strip() or self.out.strip()}"
        return self


def list_workflows() -> list[str]:
    """The names of all rows."""
    paths = [*sorted(WORKFLOWS.glob("*.yaml")), *sorted((WORKFLOWS / "fast").glob("*.yaml"))]
    return [*(path.relative_to(WORKFLOWS).with_suffix("").as_posix() for path in paths), GENERATED]


@dataclass
class Bench:
    """A workflow in a folder of its own, where everything that is made of it is kept.

    name: of the row. changes: other values of its parameters, by name. onnxruntime_web: the npm package; "" for none.
    """

    name: str
    folder: Path
    onnxruntime_web: str = ""
    _results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def file(self) -> Path:
        """The workflow's file."""
        if self.name != GENERATED:
            return WORKFLOWS / f"{self.name}.yaml"
        plugin = self.folder / "plugin"
        if not plugin.is_dir():
            run_command("new-plugin", PLUGIN, "-o", plugin).check()
        sys.path.insert(0, str(plugin))
        return plugin / f"guidegraph_{PLUGIN}" / "text_to_image.yaml"

    @cached_property
    def plugins(self) -> tuple[str, ...]:
        return (f"guidegraph_{PLUGIN}",) if self.name == GENERATED and self.file else ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of each run: few steps, one picture, and a model where none ships."""
        small = {**SMALL, **MORE_STEPS.get(self.name, {})}
        settings = {name: value for name, value in small.items() if name in self.workflow.graph.params}
        made = self.folder / "made"
        if self.name in TRANSFORMERS:
            settings["model"] = made / "model"
            if not made.is_dir():
                made.mkdir()
                disturb(write_model(SMALL_TRANSFORMER.format(network=TRANSFORMERS[self.name]), made))
        if self.name == "text_to_image_onnx":
            if not made.is_dir():
                run_command("export", WORKFLOWS / "text_to_image.yaml", "-o", made, "--only", "denoiser").check()
            settings["denoiser"] = made
        return settings

    @cached_property
    def changes(self) -> dict[str, Any]:
        """Another value of each parameter that is not a network's."""
        changes: dict[str, Any] = {}
        for name, parameter in self.workflow.graph.params.items():
            if name in LOADED:
                continue
            if name in PICTURES:
                changes[name] = self._mirror(Path(parameter.default))
            elif name in CHANGES:
                changes[name] = CHANGES[name]
            else:
                changes[name] = parameter.default + (1 if isinstance(parameter.default, int) else 1.5)
        return changes

    def _mirror(self, path: Path) -> Path:
        """The mirror image of a picture, as a file."""
        mirrored = self.folder / f"mirrored-{path.name}"
        with Image.open(path) as picture:
            ImageOps.mirror(picture).save(mirrored)
        return mirrored

    @cached_property
    def workflow(self) -> Workflow:
        return self.load()

    def load(self, file: Path | None = None, **options: Any) -> Workflow:
        """The workflow, or another file, without caches."""
        from guidegraph import load_workflow

        return load_workflow(file or self.file, cache="off", plugins=self.plugins, **options)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """``image``, ``tensor`` or ``table`` for each output."""
        from guidegraph.commands.exports.steps import bundle_kind

        return {name: bundle_kind(self.workflow.graph, name) for name in self.workflow.graph.outputs}

    @cached_property
    def loops(self) -> list[str]:
        """The loops of a run that can be stopped."""
        from guidegraph.graph.stopping.choose_loop import find_run_ops, list_stoppable_loops

        graph = self.workflow.graph
        return list_stoppable_loops(find_run_ops(graph, self.workflow.bind(self.settings), None))

    def engine(self, **changes: Any) -> dict[str, Any]:
        """What the engine gives with some settings changed. Each set is run once."""
        key = json.dumps(changes, sort_keys=True, default=str)
        if key not in self._results:
            self._results[key] = to_arrays(self.workflow.run_with({**self.settings, **changes}).outputs)
        return self._results[key]

    def options(self, **changes: Any) -> list[str]:
        """The settings and changes as options of a command."""
        values = {**self.settings, **changes}
        return [part for name, value in values.items() for part in ("--set", f"{name}={format_value(value)}")]

    def command(self, *arguments: object) -> Printed:
        """Run ``guidegraph``, with the row's plugin."""
        return run_command(*arguments, *(part for name in self.plugins for part in ("--plugin", name)))


def disturb(folder: Path) -> None:
    """Move the weights of an untrained denoiser away from zero, so that its condition has an effect."""
    import torch

    from guidegraph.nodes.models.model_nodes import load_model, save_model

    generator = torch.Generator().manual_seed(0)
    model = load_model(path=folder)
    denoiser: Any = model.denoiser
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    save_model(denoiser=denoiser, schedule=model.schedule, path=folder)


def to_arrays(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of the engine, a bundle or a server: tensors as arrays, tables as lists of cells by column."""
    return {name: _to_array(value) for name, value in outputs.items()}


def _to_array(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.names:
        value = {name: value[name].tolist() for name in value.dtype.names}
    if isinstance(value, Mapping):
        return {
            name: [None if cell == "" or cell != cell else cell for cell in map(_to_plain, column)]
            for name, column in value.items()
        }
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _to_plain(cell: Any) -> Any:
    return cell.item() if hasattr(cell, "item") else cell


def format_value(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def run_command(*arguments: object) -> Printed:
    """Run ``guidegraph`` in this process."""
    from guidegraph.commands import load_commands, main
    from guidegraph.commands.shared.plugins import load_plugins

    load_plugins.cache_clear()
    app = load_commands()
    own = list(app.registered_commands)
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    finally:
        app.registered_commands[:] = own
    return Printed(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def read_outputs(folder: Path) -> dict[str, Any]:
    """The outputs that a run has written, by name, as its record lists them: pictures as (B, H, W, 3)
    of 0 to 255, tables as lists of cells by column."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["status"] == "done", f"the record says that the run is {record['status']}"
    return {name: _read_output(folder, output["files"]) for name, output in record["outputs"].items()}


def _read_output(folder: Path, files: list[str]) -> Any:
    if all(name.endswith(".png") for name in files):
        pictures = []
        for name in files:
            with Image.open(folder / name) as picture:
                pictures.append(np.asarray(picture.convert("RGB")).astype(np.int64))
        return np.stack(pictures)
    return json.loads((folder / files[0]).read_text(encoding="utf-8"))


def to_pixels(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The pixels (B, H, W, 3) of 0 to 255 of pictures (B, C, H, W) from −1 to 1."""
    from guidegraph_runtime import pixels

    drawn = np.stack([np.asarray(pixels(picture)) for picture in image]).astype(np.int64)
    if drawn.ndim == 3:
        drawn = drawn[..., None]
    return np.broadcast_to(drawn, (*drawn.shape[:3], 3)) if drawn.shape[-1] == 1 else drawn
