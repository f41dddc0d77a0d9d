"""Writing a bundle atomically: graphs, tables, files and the manifest.

The weights of a bundle's parts in files beside the graphs: each stored once, however many parts compute with it.

onnxruntime frees them after it has laid them out for its kernels, which it does not do with weights inside of a graph.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir
from safetensors.torch import save

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.file_stems import choose_stems
from guidegraph.graph.export.onnx.adaptable_weights import LEAST_BYTES, make_weight_table
from guidegraph.graph.export.onnx.program import OPSET
from guidegraph.graph.export.trace_parts import ExportedPart
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.bundle.manifest import (
    File,
    Manifest,
    Output,
    Part,
    Preview,
    Reference,
    Requires,
    Tensor,
    write_manifest,
)
from guidegraph_runtime.bundle.manifest_types import ADAPTABLE_TABLE, MANIFEST, TABLES
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.files.atomic_write import atomic_folder, remove_stale, stale_paths


def write_bundle(
    exported: Exported,
    out: Path,
    *,
    kinds: Mapping[str, str],
    ports: Mapping[str, tuple[str, int]] | None = None,
    versions: Mapping[str, str],
    reference: Reference | None = None,
    preview: Preview | None = None,
    more: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a bundle to the folder ``out``, replacing a bundle that is there.

    kinds: one of `OUTPUT_TYPES` for each output. ports: the name of an output's port type and the number of axes of
    its samples, where a format writes it. reference: a run to repeat, with its files in ``more``. preview: what
    shows a run while it is under way.
    Raises ``ExportError`` if something else is at ``out``, and for a bundle that a runtime would refuse.
    """
    with _replace_folder(out) as folder:
        parts = _save_graphs(exported.parts, folder)
        if exported.host.tables:
            tables = {name: t.detach().cpu().contiguous().clone() for name, t in exported.host.tables.items()}
            (folder / TABLES).write_bytes(save(tables))
        for name, data in {**exported.host.files, **_weight_table(exported), **(more or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        graph = exported.graph
        manifest = Manifest(
            name=graph.name,
            workflow=graph.sources.get(str(graph.file), ""),
            inputs=exported.inputs,
            outputs={
                name: Output(kinds[name], source, *(ports or {}).get(name, ()))
                for name, source in exported.outputs.items()
            },
            parts=parts,
            plan=exported.plan,
            files=dict(_list_files(folder)),
            versions=versions,
            requires=Requires(OPSET, exported.providers),
            fixed=exported.fixed,
            reference=reference,
            preview=preview,
        )
        try:
            (folder / MANIFEST).write_bytes(write_manifest(manifest))
        except BundleError as error:
            reason = f"a runtime would refuse the bundle: {error.path}: {error.message}"
            raise ExportError(reason, "give the workflow other names or values there") from error
    return manifest


def _weight_table(exported: Exported) -> dict[str, bytes]:
    """The file of adaptable weights, if the models have some, or had some that are frozen."""
    adaptable = {part.plan.name: part.adaptable for part in exported.parts if part.adaptable}
    return {ADAPTABLE_TABLE: make_weight_table(adaptable, exported.frozen)} if adaptable or exported.frozen else {}


def _save_graphs(parts: Sequence[ExportedPart], folder: Path) -> dict[str, Part]:
    stems = choose_stems(part.plan.name for part in parts)
    weights = save_graphs({stems[part.plan.name]: part.traced.model for part in parts}, folder)
    return {
        part.plan.name: Part(
            file=f"{stems[part.plan.name]}.onnx",
            inputs=tuple(_describe_tensor(value, part.traced.inputs) for value in part.traced.model.graph.inputs),
            outputs=tuple(_describe_tensor(value, part.traced.outputs) for value in part.traced.model.graph.outputs),
            opsets=dict(part.traced.model.opset_imports),
            externals=weights[stems[part.plan.name]],
        )
        for part in parts
    }


def _describe_tensor(value: Any, shapes: Mapping[str, tuple[int | str, ...]]) -> Tensor:
    return Tensor(str(value.name), str(value.dtype.numpy()), shapes[str(value.name)])


def _list_files(folder: Path) -> Iterator[tuple[str, File]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield path.relative_to(folder).as_posix(), File(digest, path.stat().st_size)


@contextmanager
def _replace_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside ``out`` that replaces it at the end, and is removed on an error.

    Restores the bundle that a killed export was about to replace, and removes its other leftovers.
    """
    check_bundle_path(out)
    out = out.resolve()  # if the path is a link, its target is replaced
    remove_stale(out.parent)
    for replaced in list(stale_paths(out.parent, "old", _backup_path(out).name)):
        if not out.exists() and (replaced / MANIFEST).is_file():
            os.replace(replaced, out)
        else:
            shutil.rmtree(replaced, ignore_errors=True)
    with atomic_folder(out, _backup_path(out)) as folder:
        yield folder


def _backup_path(out: Path) -> Path:
    """The path to which an existing bundle is moved while it is replaced; unique to this bundle in its folder."""
    return out.with_name(f"replaced-{hashlib.sha256(out.name.encode()).hexdigest()[:16]}")


def check_bundle_path(out: Path) -> None:
    """Raise ``ExportError`` if a bundle must not be written to a path because something else is there."""
    for above in out.absolute().parents:
        if (above / MANIFEST).is_file():
            reason = f"'{out}' lies in the bundle '{above}', which holds its own files alone"
            raise ExportError(reason, "choose a folder outside of it")
        if above.exists() and not above.is_dir():
            raise ExportError(f"'{above}' is a file and no folder for '{out.name}'", "choose another folder")
    if out.resolve() == Path.cwd():
        raise ExportError("a bundle takes the place of its folder, and this is the current one", "name another folder")
    if out.is_dir() and not any(out.iterdir()):
        return
    if os.path.lexists(out) and not (out / MANIFEST).is_file():
        raise ExportError(f"'{out}' is there and no bundle", "choose a new folder, or remove it")


ALIGNMENT = 64
"""The offset of each weight is a multiple of so many bytes."""

Content: TypeAlias = "tuple[int, str]"
"""The contents of a weight: its size in bytes, and its sha256, or its name where no other weight has that size."""


@dataclass
class _File:
    """A file of weights: those that the same parts read. offsets: of each, by its contents."""

    name: str
    offsets: dict[Content, int] = field(default_factory=dict)
    size: int = 0


def save_graphs(models: Mapping[str, onnx_ir.Model], folder: Path) -> dict[str, tuple[str, ...]]:
    """Write models (by the name of the file without its ending) as ``NAME.onnx``, with their weights beside them.

    A weight of 1024 bytes or more is in ``NAME.onnx.data``, or, if several models have the same, in
    ``weights-HASH.data``, a file for each set of models. Smaller ones are in the graph. Returns the names of the files
    of weights that each model reads.
    """
    contents = _find_contents(models)
    readers: dict[Content, list[str]] = {}
    for name, by_value in contents.items():
        for content in dict.fromkeys(by_value.values()):
            readers.setdefault(content, []).append(name)
    files: dict[tuple[str, ...], _File] = {}
    tensors = {
        content: models[name].graph.initializers[value].const_value
        for name, by_value in contents.items()
        for value, content in by_value.items()
    }
    for names in dict.fromkeys(map(tuple, readers.values())):
        kept = {content: tensors[content] for content, users in readers.items() if tuple(users) == names}
        files[names] = _write_weights(kept, folder, f"{names[0]}.onnx.data" if len(names) == 1 else "")
    for name, model in models.items():
        placed = {value: files[tuple(readers[content])] for value, content in contents[name].items()}
        with _place_outside(model, {v: (file.name, file.offsets[contents[name][v]]) for v, file in placed.items()}):
            (folder / f"{name}.onnx").write_bytes(onnx_ir.to_proto(model).SerializeToString())
    return {
        name: tuple(dict.fromkeys(files[tuple(readers[content])].name for content in by_value.values()))
        for name, by_value in contents.items()
    }


def _find_contents(models: Mapping[str, onnx_ir.Model]) -> dict[str, dict[str, Content]]:
    """The contents of each model's large weights, by model and value. Weights of a size of their own are not hashed."""
    large = {
        name: {
            str(value.name): value.const_value
            for value in model.graph.initializers.values()
            if value.const_value is not None and value.const_value.nbytes >= LEAST_BYTES
        }
        for name, model in models.items()
    }
    sizes = Counter(tensor.nbytes for by_value in large.values() for tensor in by_value.values())
    return {
        name: {
            value: (
                tensor.nbytes,
                hashlib.sha256(tensor.tobytes()).hexdigest() if sizes[tensor.nbytes] > 1 else f"{name}/{value}",
            )
            for value, tensor in by_value.items()
        }
        for name, by_value in large.items()
    }


def _write_weights(tensors: Mapping[Content, Any], folder: Path, name: str) -> _File:
    """Write a file of weights. name: "" for one after the hash of its contents."""
    written, digest = _File(name), hashlib.sha256()
    path = folder / (name or "weights.data")
    with path.open("wb") as file:
        for content, tensor in tensors.items():
            padding = bytes(-written.size % ALIGNMENT)
            data = tensor.tobytes()
            for piece in (padding, data):
                file.write(piece)
                if not name:
                    digest.update(piece)
            written.offsets[content] = written.size + len(padding)
            written.size += len(padding) + len(data)
    if not name:
        written.name = f"weights-{digest.hexdigest()[:16]}.data"
        os.replace(path, folder / written.name)
    return written


@contextmanager
def _place_outside(model: onnx_ir.Model, places: Mapping[str, Sequence[Any]]) -> Iterator[None]:
    """The model with references in place of weights, for a while. places: the file and the offset of each."""
    initializers = model.graph.initializers
    inside = {value: initializers[value].const_value for value in places}
    try:
        for value, (file, offset) in places.items():
            tensor: Any = inside[value]
            initializers[value].const_value = onnx_ir.ExternalTensor(
                file, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value
            )
        yield
    finally:
        for value, tensor in inside.items():
            initializers[value].const_value = tensor
