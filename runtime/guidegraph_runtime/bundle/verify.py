"""Open a bundle: check every name, size and hash, then every graph, before onnxruntime sees a byte.

The hashes show that the bundle is complete and matches its `bundle.json`; they do not show who made it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from posixpath import dirname, join
from typing import NoReturn

from guidegraph_runtime.bundle.folder import check_listing, fail, read_costs, read_file, sha256
from guidegraph_runtime.bundle.manifest import Manifest, Part, digest_of, read_manifest
from guidegraph_runtime.bundle.manifest_types import COSTS, MANIFEST, file_name_problem
from guidegraph_runtime.bundle.onnx_graph import STANDARD, OnnxGraph, newest_opsets, read_graph
from guidegraph_runtime.bundle.onnx_wire import Malformed
from guidegraph_runtime.bundle.strict_json import MAX_BYTES
from guidegraph_runtime.errors import BundleError, format_value
from guidegraph_runtime.limits import current_limits


@dataclass
class VerifiedBundle:
    """A bundle whose bytes are checked and kept in memory; its folder is not read again."""

    path: Path
    manifest: Manifest
    graphs: Mapping[str, OnnxGraph]
    """By the name of the part."""
    _data: dict[str, bytes] = field(repr=False)
    digest: str = ""
    """The digest in `bundle.json`: the sha256 that identifies this bundle."""

    def data(self, name: str) -> bytes:
        """The bytes of a file that `bundle.json` lists."""
        if name not in self.manifest.files:
            fail(str(self.path / MANIFEST), f"expected '{name}' among the files, found no such name")
        if name not in self._data:
            fail(
                str(self.path / name),
                "expected bytes that are still in memory, found released ones",
                "open the bundle again",
            )
        return self._data[name]

    def externals(self, part: str) -> dict[str, bytes]:
        """The files of a part's weights, by their names in the graph."""
        folder = dirname(self.manifest.parts[part].file)
        return {tensor.location: self.data(join(folder, tensor.location)) for tensor in self.graphs[part].externals}

    def release(self, names: Iterable[str]) -> None:
        """Release the bytes of files that sessions have copied."""
        for name in names:
            self._data.pop(name, None)


def open_bundle(path: str | os.PathLike[str], max_bytes: int | None = None) -> VerifiedBundle:
    """Read and check the bundle in the folder `path` (which may be a link to it; nothing inside may be one).

    max_bytes: of all its files, by default the limit ``file_bytes``. Raises ``BundleError`` for a file that is missing,
    changed, too large, a link or hard link, outside the folder or not listed, and for a graph that reads unlisted files
    or needs operators that the installed onnxruntime lacks.
    """
    max_bytes = current_limits().file_bytes if max_bytes is None else max_bytes
    if not isinstance(path, (str, os.PathLike)):
        raise BundleError("bundle", "bad-value", f"expected the path of a bundle's folder, found {format_value(path)}")
    root = _folder(os.fspath(path))
    text = read_file(root, MANIFEST, MAX_BYTES)
    manifest = read_manifest(text, str(root / MANIFEST))
    total = sum(file.size for file in manifest.files.values())
    if total > max_bytes:
        do = f"if that is right, raise the limit: --limit file_bytes={total}"
        fail(str(root / MANIFEST), f"expected files of at most {max_bytes} bytes in all, found {total}", do)
    has_costs = COSTS not in manifest.files and (root / COSTS).exists()
    check_listing(root, {*manifest.files, *([COSTS] if has_costs else [])}, MANIFEST)
    if has_costs:
        costs = read_costs(read_file(root, COSTS, MAX_BYTES), manifest.parts, str(root / COSTS))
        parts = {name: replace(part, costs=costs.get(name, ())) for name, part in manifest.parts.items()}
        manifest = replace(manifest, parts=parts)
    data = {}
    for name, file in manifest.files.items():
        data[name] = read_file(root, name, max_bytes, file.size)
        if (actual := sha256(data[name])) != file.sha256:
            fail(str(root / name), f"expected the sha256 {file.sha256}, found {actual}: the file was changed")
    graphs = {name: _graph(root, part, data) for name, part in manifest.parts.items()}
    return VerifiedBundle(root, manifest, graphs, data, digest_of(text))


def _folder(path: str) -> Path:
    try:
        root = Path(path).resolve()
        exists = root.is_dir()
    except (OSError, RuntimeError, ValueError):  # a cycle of links, or an invalid file name
        exists = False
    if not exists:
        fail(
            format_value(path), "expected the folder of a bundle, found none", "give the folder that holds bundle.json"
        )
    return root


def _graph(root: Path, part: Part, data: Mapping[str, bytes]) -> OnnxGraph:
    location = str(root / part.file)
    try:
        graph = read_graph(data[part.file])
    except Malformed as error:
        _refuse(location, f"expected an ONNX graph, found {error}", "export the workflow again")
    check_operators(location, graph)
    used = set()
    for tensor in graph.externals:
        title = format_value(tensor.name)
        if (wrong := file_name_problem(tensor.location)) is not None:
            _refuse(location, f"expected for the weights {title} {wrong}, found {format_value(tensor.location)}")
        name = join(dirname(part.file), tensor.location)
        if name not in part.externals:
            _refuse(location, f"expected weights in {', '.join(part.externals) or 'no file'}, found '{name}'")
        if tensor.offset + tensor.size > len(data[name]):
            actual = f"the weights {title} up to byte {tensor.offset + tensor.size}"
            _refuse(location, f"expected at most the {len(data[name])} bytes of '{name}', found {actual}")
        used.add(name)
    if unused := sorted(set(part.externals) - used):
        _refuse(location, f"expected weights in '{unused[0]}', found none that it reads there")
    if graph.opsets != dict(part.opsets):
        _refuse(location, f"expected the operator sets {dict(part.opsets)}, found {graph.opsets}", "export again")
    return graph


def check_operators(location: str, graph: OnnxGraph, do: str = "export the workflow again") -> None:
    """Raise ``BundleError`` for operators that are not standard, or newer than the installed onnxruntime supports.

    Also for constants whose sizes or trip counts exceed the limits in force. do: the remedy for operators that are not
    standard.
    """
    for domain, op in sorted(graph.operators):
        if domain not in STANDARD:
            message = f"expected standard operators only, found {format_value(op)} of the domain {format_value(domain)}"
            _refuse(location, message, do)
    if problems := graph.limit_problems():
        raise BundleError(location, "over-limit", problems[0])
    newest = newest_opsets()
    for domain, version in graph.opsets.items():
        if domain not in STANDARD:
            _refuse(location, f"expected the standard operator sets only, found that of {format_value(domain)}", do)
        if not 1 <= version <= newest[domain]:
            update = "update onnxruntime, or export with an older opset"
            _refuse(location, f"expected opset 1 to {newest[domain]} of '{domain}', found {version}", update)


def _refuse(location: str, message: str, do: str = "export the workflow again") -> NoReturn:
    raise BundleError(location, "bad-graph", f"{message}; {do}")
