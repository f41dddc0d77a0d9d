"""Write outputs to files by type: in the formats of their type, else tensors to safetensors and the rest to JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence, Set
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.errors import Cancelled, Problem, UnwritableOutput
from guidegraph.graph.ir import Graph, walk
from guidegraph.graph.late import torch
from guidegraph.graph.node import Registry
from guidegraph.graph.output_format import Formats, OutputFormat, find_formats, split_samples
from guidegraph.graph.resolution.link_rule import can_link
from guidegraph.graph.types import PortType, SequenceOf, Tensor, is_tensor
from guidegraph.nodes.types import Image, Table
from guidegraph_runtime.files.atomic_write import atomic_path, write_text
from guidegraph_runtime.machine.shortages import explain_shortage, with_shortage
from guidegraph_runtime.output_formats import FormatFailure, PictureText, Writer, sample_names, write_sample
from guidegraph_runtime.pictures.png import add_png_text
from guidegraph_runtime.run_json import RECORD

TAKEN = {Path(RECORD).stem: RECORD, "sweep": "sweep.json"}
"""Names of outputs whose files would be taken for the records of a run or of a sweep."""

if TYPE_CHECKING:
    from guidegraph.graph.execution.loop_context import Previewed

ROWS_SHOWN = 40
"""The number of rows of a table printed on a terminal; the files have all of them."""

_PLAIN = (bool, int, float, str, Path, Enum, Mapping, Sequence, Set)


class OutputWriter:
    """Writes outputs into a folder as they become ready. files: file names by output. tables: Markdown to print.

    ``previews``: the files of previews by LOOP/NAME. ``failures``: messages on plugins' formats that failed. ``shown``:
    the files that a format shows as markup. text: makes the metadata of an output's pictures.
    """

    def __init__(self, graph: Graph, registry: Registry, folder: Path, text: PictureText):
        self.files: dict[str, list[str]] = {}
        self.previews: dict[str, list[str]] = {}
        self.tables: dict[str, str] = {}
        self.failures: list[str] = []
        self.shown: list[str] = []
        self._graph, self._registry, self._folder, self._text = graph, registry, folder, text

    def __call__(self, name: str, value: Any, kind: PortType) -> None:
        """Write one output. Raises ``UnwritableOutput``; no partial file is left behind."""
        try:
            self.files[name] = self._write(name, value, kind)
        except Exception as error:
            if (reason := _failure_reason(error)) is None:
                raise
            hint = saving_hint(kind, self._registry) if isinstance(error, UnwritableOutput) else ""
            mark = self._graph.outputs[name].mark
            raise UnwritableOutput(f"{mark}: output-failed: output '{name}' {reason}{hint} [outputs.{name}]") from error

    def raise_failures(self) -> None:
        """Raise ``UnwritableOutput`` if a plugin's format failed, with all messages."""
        if self.failures:
            raise UnwritableOutput("\n".join(self.failures))

    def preview(self, preview: Previewed) -> None:
        """Write an output of a training loop's preview: LOOP/NAME/step-000200.png. Raises ``UnwritableOutput``."""
        folder = f"{preview.loop}/{preview.name}"
        try:
            files = self._write(f"{folder}/step-{preview.step:06d}", preview.value, preview.type)
        except Exception as error:
            if (reason := _failure_reason(error)) is None:
                raise
            path = f"nodes.{preview.loop}.preview"
            raise UnwritableOutput(
                f"{path}: output-failed: '{preview.name}' after {preview.step} steps {reason}"
            ) from error
        self.previews[folder] = [*self.previews.get(folder, ()), *files]

    def _write(self, name: str, value: Any, kind: PortType) -> list[str]:
        if value is not None and (formats := find_formats(self._registry.formats, kind, value)):
            return self._write_formats(name, value, formats)
        tensors: dict[str, Any] = {}
        try:
            tree = to_json(value, name, tensors)
        except RecursionError:
            raise UnwritableOutput("contains itself") from None
        if not tensors:
            write_text(self._folder / f"{name}.json", json.dumps(tree, indent=2, ensure_ascii=True) + "\n")
            return [f"{name}.json"]
        from safetensors.torch import save_file

        metadata = {"format": "pt"} if set(tensors) == {name} else {"format": "pt", "guidegraph": json.dumps(tree)}
        with atomic_path(self._folder / f"{name}.safetensors") as temporary:
            try:
                save_file(tensors, str(temporary), metadata=metadata)
            except (ValueError, KeyError) as error:
                raise UnwritableOutput(f"cannot be written as safetensors: {error}") from error
        return [f"{name}.safetensors"]

    def _write_formats(self, name: str, value: Any, formats: Sequence[OutputFormat]) -> list[str]:
        """Write a value's samples in each format, and note the formats that fail; returns the files that exist."""
        samples = split_samples(formats[0].type, value)
        if not samples:
            kind = formats[0].type.__name__
            raise UnwritableOutput(f"is an empty batch: there is no {'picture' if kind == 'Image' else kind} to write")
        is_output = name in self._graph.outputs
        if is_output and isinstance(value, Table):
            self.tables[name] = value.markdown(ROWS_SHOWN)
        files = []
        for format in formats:
            writer = Writer(format.write, format.suffix, format.owner, format.seconds)
            try:
                for i, sample in enumerate(samples):
                    text = self._text(name, i, len(samples)) if is_output and format.suffix == ".png" else {}
                    file = sample_names(name, len(samples), format.suffix)[i]
                    write_sample(
                        writer, sample, self._folder / file, partial(_add_text, text), (UnwritableOutput, Cancelled)
                    )
                    files.append(file)
                    if is_output and format.read and format.html:
                        self.shown.append(file)
            except FormatFailure as error:
                if is_output:
                    place, path = f"{self._graph.outputs[name].mark}: ", f" [outputs.{name}]"
                else:  # of a training's preview, which has no line of its own
                    place, path = "", ""
                self.failures.append(f"{place}output-failed: '{name}' {error}{path}")
        return files


def _add_text(text: Mapping[str, str], picture: Path) -> None:
    if text:
        add_png_text(picture, text)


def _failure_reason(error: Exception) -> str | None:
    """Why an output was not written, as the end of a sentence; None for an unrelated error."""
    if isinstance(error, UnwritableOutput):
        return str(error)
    if isinstance(error, OSError):
        return f"has no file: {with_shortage(str(error), error)}"
    return f"has no file: {shortage}" if (shortage := explain_shortage(error)) else None


def is_image(kind: PortType) -> bool:
    """Whether values of this type are pictures, or sequences of them."""

    def image(a: type | SequenceOf) -> bool:
        return is_image(a.element) if isinstance(a, SequenceOf) else issubclass(a, Image)

    return bool(kind.alternatives) and all(map(image, kind.alternatives))


def to_json(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    """Convert a value to JSON; its tensors go to ``tensors`` under dotted names, to which the JSON refers.

    Non-finite numbers become "NaN", "Infinity" or "-Infinity". Raises ``UnwritableOutput`` for a value without a
    format.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Enum):
        return to_json(value.value, name, tensors)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else json.dumps(float(value))
    if isinstance(value, Path):
        return str(value)
    if (array := _as_tensor(value)) is not None:
        if array.ndim == 0 and not is_tensor(value):
            return to_json(array.item(), name, tensors)
        try:
            tensors[name] = array.detach().to("cpu").contiguous().clone()
        except (RuntimeError, NotImplementedError) as error:  # a sparse or meta tensor
            raise UnwritableOutput(f"holds a tensor that cannot be written: {error!s:.200}") from error
        return {"tensor": name}
    if (fields := _to_mapping(value)) is not None:
        return {key: to_json(element, f"{name}.{key}", tensors) for key, element in fields.items()}
    if isinstance(value, Set):
        return to_json(sorted(value, key=repr), name, tensors)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [to_json(element, f"{name}.{i}", tensors) for i, element in enumerate(value)]
    raise UnwritableOutput(f"holds a value of type {type(value).__name__}, for which there is no file format")


def _as_tensor(value: Any) -> Any:
    """A tensor, or a NumPy array or number as one; None for anything else."""
    if is_tensor(value):
        return value
    if type(value).__module__ != "numpy" or not hasattr(value, "dtype"):
        return None
    import numpy

    try:
        return torch.from_numpy(numpy.array(value))
    except TypeError as error:
        raise UnwritableOutput(f"holds a NumPy array of {value.dtype}, for which there is no file format") from error


def _to_mapping(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return {str(key): element for key, element in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def output_problems(graph: Graph, registry: Registry, only: Collection[str] | None) -> list[Problem]:
    """A problem for each output, and each output of a preview, whose type cannot be written."""
    problems = []
    for name, output in graph.outputs.items():
        if only is not None and name not in only:
            continue
        path = f"outputs.{name}"
        if taken := TAKEN.get(name):
            message = f"the name '{name}' is taken by the file {taken}: call the output otherwise"
            problems.append(Problem(output.mark, "output-name", message, path))
        elif not _has_format(output.type, registry.formats):
            message = f"output '{name}' is of type {output.type}, for which there is no file format"
            problems.append(Problem(output.mark, "output-type", message + saving_hint(output.type, registry), path))
    for op in walk(graph.ops):
        for name, output in op.preview_outputs().items() if op.has_blocks else ():
            if not _has_format(output.type, registry.formats):
                message = f"the preview's output '{name}' is of type {output.type}, for which there is no file format"
                hint = saving_hint(output.type, registry)
                problems.append(Problem(output.mark, "output-type", message + hint, f"nodes.{op.key}.preview"))
    return problems


def _has_format(kind: PortType, formats: Formats) -> bool:
    is_plain = kind.optional or kind.is_any or any(_is_plain(cls, formats) for cls in kind.alternatives)
    return is_plain or bool(find_formats(formats, kind, None))


def _is_plain(cls: type | SequenceOf, formats: Formats) -> bool:
    if isinstance(cls, SequenceOf):
        return _has_format(cls.element, formats)
    if getattr(cls, "_is_protocol", False):
        return False
    return issubclass(cls, (Tensor, *_PLAIN)) or dataclasses.is_dataclass(cls) or cls.__module__ == "numpy"


def saving_hint(kind: PortType, registry: Registry) -> str:
    """A hint naming the nodes that save values of a type without a file format."""
    if _has_format(kind, registry.formats):
        return ""
    savers = [
        id
        for id, spec in sorted(registry.nodes.items())
        if not spec.pure and any(not p.type.is_any and can_link(kind, p.type) for p in spec.inputs.values())
    ]
    return f"; save it with a node: {', '.join(savers)}" if savers else "; no node that is installed saves it"
