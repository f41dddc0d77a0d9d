"""Writing a bundle atomically: graphs, tables, files and the manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.file_stems import choose_stems
from guidegraph.graph.export.onnx.adaptable_weights import make_weight_table
from guidegraph.graph.export.onnx.program import OPSET
from guidegraph.graph.export.trace_parts import ExportedPart
from guidegraph.graph.export.weight_files import save_graphs
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
from guidegraph_runtime.bundle.names import ADAPTABLE_TABLE, MANIFEST, TABLES
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.files.atomic_write import atomic_folder
from guidegraph_runtime.files.temporary_names import remove_stale, stale_paths


def write_bundle(
    exported: Exported,
    out: Path,
    *,
    kinds: Mapping[str, str],
    versions: Mapping[str, str],
    reference: Reference | None = None,
    preview: Preview | None = None,
    more: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a bundle to the folder ``out``, replacing a bundle that is there.

    kinds: one of `OUTPUT_TYPES` for each output. reference: a run to repeat, with its files in ``more``. preview: what
    shows a run while it is under way.
    Raises ``ExportError`` if something else is at ``out``, and for a bundle that a runtime would refuse.
    """
    with _replace_folder(out) as folder:
        parts = _save_graphs(exported.parts, folder)
        if exported.host.tables:
            _save_tables(exported.host.tables, folder / TABLES)
        for name, data in {**exported.host.files, **_weight_table(exported), **(more or {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        graph = exported.graph
        manifest = Manifest(
            name=graph.name,
            workflow=graph.sources.get(str(graph.file), ""),
            inputs=exported.inputs,
            outputs={name: Output(kinds[name], source) for name, source in exported.outputs.items()},
            parts=parts,
            plan=exported.plan,
            files=dict(_list_files(folder)),
            versions=versions,
            requires=Requires(OPSET, exported.providers),
            fixed=exported.fixed,
            reference=reference,
            preview=preview,
        )
        (folder / MANIFEST).write_bytes(_write_manifest(manifest))
    return manifest


def _write_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest. Raises ``ExportError`` for one that a runtime would refuse."""
    try:
        return write_manifest(manifest)
    except BundleError as error:
        reason = f"a runtime would refuse the bundle: {error.path}: {error.message}"
        raise ExportError(reason, "give the workflow other names or values there") from error


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


def _save_tables(tables: Mapping[str, Any], path: Path) -> None:
    path.write_bytes(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tables.items()}))


def _list_files(folder: Path) -> Iterator[tuple[str, File]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield path.relative_to(folder).as_posix(), File(digest, path.stat().st_size)


@contextmanager
def _replace_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside ``out`` that replaces it at the end, and is removed on an error."""
    check_bundle_path(out)
    out = out.resolve()  # if the path is a link, its target is replaced
    _restore(out)
    with atomic_folder(out, _backup_path(out)) as folder:
        yield folder


def _restore(out: Path) -> None:
    """Restore the bundle that a killed export was about to replace, and remove its other leftovers."""
    remove_stale(out.parent)
    for replaced in list(stale_paths(out.parent, "old", _backup_path(out).name)):
        if not out.exists() and (replaced / MANIFEST).is_file():
            os.replace(replaced, out)
        else:
            shutil.rmtree(replaced, ignore_errors=True)


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
