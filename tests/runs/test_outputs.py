"""The files that outputs are written to, by type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image as pictures
from safetensors import safe_open
from safetensors.torch import load_file

from guidegraph.graph.errors import Mark, UnwritableOutput
from guidegraph.graph.execution.loop_context import Previewed
from guidegraph.graph.ir import Graph, GraphOutput
from guidegraph.graph.node import Registry, get_spec, node
from guidegraph.graph.sources import Literal
from guidegraph.graph.training.fit import Fit, Preview, Training
from guidegraph.graph.types import ANY, PortType, Tensor, to_port_type
from guidegraph.nodes.output_formats import list_formats, to_pixels
from guidegraph.nodes.types import Condition, Denoiser, Image, Latent, Sample
from guidegraph.runs.outputs import OutputWriter, output_problems
from guidegraph_runtime.pictures.png import read_png_text


class Size(NamedTuple):
    height: int
    width: int


@dataclass(frozen=True)
class Score:
    name: str
    value: float


class Colour(Enum):
    red = "red"


@node("toy.save", pure=False)
def save_model(model: Denoiser, anything: Any = None) -> None:
    """Save a model."""


FORMATS = list_formats()
REGISTRY = Registry(
    {"toy.save": get_spec(save_model)},
    formats={name: [f for f in FORMATS if f.type.__name__ == name] for name in ("Image", "Table")},
)


def graph(**kinds: PortType) -> Graph:
    outputs = {n: GraphOutput(Literal(None), kind, Mark("w.yaml", 9, 3)) for n, kind in kinds.items()}
    return Graph(Path("w.yaml"), {}, {}, outputs, {})


def write(folder: Path, value: Any, annotation: Any = Any, name: str = "out") -> list[str]:
    kind = to_port_type(annotation)
    text = lambda output, i, batch: {"guidegraph": f"{output} {i} of {batch}"}  # noqa: E731
    writer = OutputWriter(graph(**{name: kind}), REGISTRY, folder, text)
    writer(name, value, kind)
    assert sorted(p.name for p in folder.iterdir()) == sorted(writer.files[name])
    return writer.files[name]


def read_pixels(path: Path) -> np.ndarray[Any, Any]:
    with pictures.open(path) as picture:
        return np.array(picture)


def test_one_picture_is_named_after_its_output(tmp_path: Path) -> None:
    values = torch.tensor([-1.0, 0.0, 1.0, 1.5, -3.0, 0.0039])
    assert write(tmp_path, values.reshape(1, 1, 1, 6).expand(1, 3, 1, 6), Image, "image") == ["image.png"]
    expected = np.array([0, 128, 255, 255, 0, 128], np.uint8)
    assert (read_pixels(tmp_path / "image.png")[0] == expected[:, None]).all()
    assert read_png_text(tmp_path / "image.png") == {"guidegraph": "image 0 of 1"}


def test_a_batch_is_numbered_and_each_picture_knows_its_index(tmp_path: Path) -> None:
    batch = torch.linspace(-1, 1, 3).reshape(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert write(tmp_path, batch, Image) == ["out-0000.png", "out-0001.png", "out-0002.png"]
    assert [read_pixels(tmp_path / f"out-{i:04}.png")[0, 0, 0] for i in range(3)] == [0, 128, 255]
    assert read_png_text(tmp_path / "out-0002.png") == {"guidegraph": "out 2 of 3"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_picture_of_any_float_dtype(dtype: torch.dtype) -> None:
    assert to_pixels(torch.full((3, 2, 4), 0.5, dtype=dtype)).tolist() == [[[191] * 3] * 4] * 2


def test_pictures_collected_by_a_loop_are_written_in_order(tmp_path: Path) -> None:
    assert len(write(tmp_path, [torch.zeros(2, 3, 2, 2), torch.zeros(1, 3, 4, 4)], Sequence[Image])) == 3


def test_pictures_stacked_by_a_loop_are_written_in_order(tmp_path: Path) -> None:
    assert len(write(tmp_path, torch.zeros(2, 2, 3, 2, 2), Sequence[Image])) == 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([float("nan")] * 2 + [0.0]).expand(1, 3, 1, 3), r"6 of 9 values are NaN"),
        (torch.full((1, 3, 1, 1), float("inf")), "3 of 3 values are infinite; .* and at the weights of the models"),
        (torch.full((1, 3, 1, 1), float("inf")).half(), "3 of 3 values are infinite; .* or try --dtype float32"),
        (torch.zeros(1, 4, 2, 2), r"declared as an image \(B, 3, H, W\), found \(1, 4, 2, 2\)"),
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "image of torch.uint8"),
        (torch.zeros(0, 3, 2, 2), "empty batch"),
        ("x", "found str"),
    ],
)
def test_values_that_are_not_pictures_are_refused_with_the_reason(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UnwritableOutput, match=f"w.yaml:9:3: output-failed: output 'out' .*{message}"):
        write(tmp_path, value, Image)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [Tensor, Latent, Sample, Any])
def test_a_tensor_is_stored_under_its_outputs_name(tmp_path: Path, kind: Any) -> None:
    value = torch.arange(12.0).reshape(1, 3, 2, 2).transpose(2, 3)
    assert write(tmp_path, value, kind, "latents") == ["latents.safetensors"]
    stored = load_file(tmp_path / "latents.safetensors")
    assert list(stored) == ["latents"]
    assert torch.equal(stored["latents"], value)


def test_tensors_in_data_get_dotted_names(tmp_path: Path) -> None:
    shared = torch.ones(1, 2)
    value = {"a": Condition(tokens=shared), "b": [shared, 3]}
    assert write(tmp_path, value) == ["out.safetensors"]
    with safe_open(str(tmp_path / "out.safetensors"), "pt") as file:
        assert set(file.keys()) == {"out.a.tokens", "out.b.0"}
        tree = json.loads(file.metadata()["guidegraph"])
    assert tree["b"] == [{"tensor": "out.b.0"}, 3]
    absent = dict.fromkeys(("vector", "mask", "spatial", "more"))
    assert tree["a"] == {**absent, "tokens": {"tensor": "out.a.tokens"}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (True, True),
        ("ein Löwe", "ein Löwe"),
        (None, None),
        (Path("a/b"), "a/b"),
        (Size(2, 3), {"height": 2, "width": 3}),
        ([Score("a", 0.5)], [{"name": "a", "value": 0.5}]),
        ({1: (1, 2), "s": {"b", "a"}}, {"1": [1, 2], "s": ["a", "b"]}),
        ([float("nan"), float("-inf")], ["NaN", "-Infinity"]),
        (range(3), [0, 1, 2]),
        (Colour.red, "red"),
        (np.float64(0.5), 0.5),
        (np.int32(7), 7),
    ],
)
def test_data_is_written_as_json(tmp_path: Path, value: Any, expected: Any) -> None:
    assert write(tmp_path, value) == ["out.json"]
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == expected


def test_an_array_is_written_as_a_tensor(tmp_path: Path) -> None:
    assert write(tmp_path, np.arange(3)) == ["out.safetensors"]
    assert load_file(tmp_path / "out.safetensors")["out"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [torch.nn.Linear(1, 1), object(), b"x", {"model": lambda: 0}])
def test_values_that_are_not_data_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(UnwritableOutput, match="no file format"):
        write(tmp_path, value)
    assert not list(tmp_path.iterdir())


def test_data_that_contains_itself_is_an_error(tmp_path: Path) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnwritableOutput, match="contains itself"):
        write(tmp_path, value)


def test_a_model_is_refused_before_the_run_and_the_node_that_saves_it_is_named() -> None:
    (problem,) = output_problems(graph(m=to_port_type(Denoiser), x=to_port_type(Image)), REGISTRY, None)
    assert problem.path == "outputs.m"
    assert problem.message == (
        "output 'm' is of type Denoiser, for which there is no file format; save it with a node: toy.save"
    )


@pytest.mark.parametrize(
    "annotation", [Any, Tensor, Image | None, int, str, list[float], dict, Size, Score, Condition, Denoiser | Tensor]
)
def test_writable_types_are_accepted(annotation: Any) -> None:
    assert output_problems(graph(x=to_port_type(annotation)), REGISTRY, None) == []


def test_outputs_that_are_not_requested_are_not_checked() -> None:
    assert output_problems(graph(m=to_port_type(Denoiser), x=ANY), REGISTRY, ["x"]) == []


def test_an_output_may_not_be_named_like_the_record() -> None:
    (problem,) = output_problems(graph(run=ANY), REGISTRY, None)
    assert "run.json" in problem.message


def test_a_preview_is_written_by_loop_name_and_step(tmp_path: Path) -> None:
    writer = OutputWriter(
        graph(image=to_port_type(Image)), REGISTRY, tmp_path, lambda output, i, batch: {"recipe": output}
    )
    for step in (200, 400):
        writer.preview(Previewed("fit", step, "sheet", torch.zeros(1, 3, 2, 2), to_port_type(Image)))
    writer.preview(Previewed("fit", 400, "score", 0.5, to_port_type(float)))
    assert writer.previews == {
        "fit/sheet": ["fit/sheet/step-000200.png", "fit/sheet/step-000400.png"],
        "fit/score": ["fit/score/step-000400.json"],
    }
    assert all((tmp_path / file).is_file() for files in writer.previews.values() for file in files)
    assert read_png_text(tmp_path / "fit/sheet/step-000200.png") == {}  # it cannot be made again from the workflow
    assert writer.files == {}
    with pytest.raises(
        UnwritableOutput, match=r"nodes\.fit\.preview: output-failed: 'sheet' after 600 steps is declared"
    ):
        writer.preview(Previewed("fit", 600, "sheet", torch.zeros(2), to_port_type(Image)))


def test_a_preview_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    mark = Mark("w.yaml", 9, 3)
    preview = Preview(Literal(1), {}, {"model": GraphOutput(Literal(None), to_port_type(Denoiser), mark)})
    training = Training((), None, "fp32", None, 500)
    loop = Fit("fit", Literal(1), "i", {}, {}, {}, {}, {}, mark, training, preview)
    [problem] = output_problems(Graph(Path("w.yaml"), {}, {"fit": loop}, {}, {}), REGISTRY, None)
    assert problem.path == "nodes.fit.preview"
    assert "the preview's output 'model' is of type Denoiser, for which there is no file format" in problem.message
