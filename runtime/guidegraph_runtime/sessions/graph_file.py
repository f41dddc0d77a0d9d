"""Open third-party ONNX files like the parts of a bundle: checked, then run from the checked bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from guidegraph_runtime.bundle.folder import is_link
from guidegraph_runtime.bundle.manifest_types import DTYPES, MANIFEST, Part, Tensor, file_name_problem
from guidegraph_runtime.bundle.onnx_graph import STANDARD, OnnxGraph, read_graph
from guidegraph_runtime.bundle.onnx_wire import Malformed
from guidegraph_runtime.bundle.verify import check_operators
from guidegraph_runtime.errors import BundleError, format_value
from guidegraph_runtime.limits import current_limits
from guidegraph_runtime.sessions.binding import dtype_name
from guidegraph_runtime.sessions.sessions import Session, SessionSettings, create_session

SUFFIX = ".onnx"
_EXPORT_AGAIN = "export the model again, with standard operators only and without fusing operators for onnxruntime"
# Without O_NONBLOCK, opening a pipe would wait for a writer; flags that a system lacks are 0.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_NO_LINK = _FLAGS | getattr(os, "O_NOFOLLOW", 0)
_COPY = "copy the files themselves into a folder of their own"


@dataclass(frozen=True)
class GraphFile:
    """A checked file with its session. `session.part` describes the graph; nbytes: of the graph and its weights.

    Each dynamic axis of each tensor has a name of its own.
    """

    path: Path
    session: Session
    nbytes: int


def is_bundle(path: Path) -> bool:
    """Whether a path is the folder of a bundle."""
    return (path / MANIFEST).is_file()


def open_graph_file(path: Path, settings: SessionSettings | None = None, max_bytes: int | None = None) -> GraphFile:
    """Open a session on an ONNX file, or on the only one in a folder together with its weights in that folder.

    The path of a file may be a link. Files taken from a folder, the graph or its weights, must be neither links nor
    hard links, so that no file of another folder is read. Every file is read once. It is checked as a bundle is:
    its wire format, standard operators of known versions, and external weights only in files of its folder.
    Imported operator sets that it does not use are ignored. Raises ``BundleError`` for anything else, for more than
    `max_bytes` in all, and for external weights of a graph that is given without its folder.
    """
    max_bytes = current_limits().file_bytes if max_bytes is None else max_bytes
    file = _graph_path(path)
    location = str(file)
    data = _read(file, max_bytes) if file == path else _read_in_folder(file, max_bytes)
    try:
        graph = read_graph(data)
    except Malformed as error:
        _refuse(location, f"expected an ONNX graph, found {error}", "export the model again")
    used = {domain for domain, _ in graph.operators}
    graph.opsets = {domain: version for domain, version in graph.opsets.items() if domain in {*STANDARD, *used}}
    check_operators(location, graph, _EXPORT_AGAIN)
    weights = _weights(file, graph, whole_folder=file != path, max_bytes=max_bytes - len(data))
    settings = settings or SessionSettings.on()
    session = create_session(location, data, weights, settings)
    inputs, outputs = (_read_tensors(location, nodes) for nodes in (session.get_inputs(), session.get_outputs()))
    part = Part(file.name, inputs, outputs, graph.opsets, tuple(weights))
    nbytes = len(data) + sum(map(len, weights.values()))
    import onnxruntime

    return GraphFile(file, Session(location, part, session, settings, onnxruntime), nbytes)


def _graph_path(path: Path) -> Path:
    if not path.exists():
        _refuse(str(path), f"expected an {SUFFIX} file or the folder of a bundle, found nothing", "check the path")
    if not path.is_dir():
        if path.suffix.lower() != SUFFIX:
            _refuse(
                str(path),
                f"expected an {SUFFIX} file or a folder with one, found {format_value(path.name)}",
                "give that",
            )
        return path
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(files) != 1:
        names = ", ".join(format_value(file.name) for file in files[:8]) or "none"
        do = f"give the file, or a folder that holds one graph and its weights; a bundle has a {MANIFEST}"
        _refuse(str(path), f"expected one {SUFFIX} file in the folder, found {names}", do)
    return files[0]


def _weights(file: Path, graph: OnnxGraph, whole_folder: bool, max_bytes: int) -> dict[str, bytes]:
    """Read the files of a graph's external weights, by name, all from its folder."""
    location, read = str(file), dict[str, bytes]()
    for tensor in graph.externals:
        if (wrong := file_name_problem(tensor.location)) is not None:
            do = "save the model again with its weights beside it, or inside of it"
            _refuse(
                location,
                f"expected for the weights {format_value(tensor.name)} {wrong}, found {format_value(tensor.location)}",
                do,
            )
        if not whole_folder:  # a node reads only the file of its setting, so that caches and permissions hold
            do = f"give the folder '{file.parent}' as the path, with no other graph in it"
            _refuse(location, f"expected all weights in the file, found some in {format_value(tensor.location)}", do)
        if tensor.location not in read:
            remaining = max_bytes - sum(map(len, read.values()))
            read[tensor.location] = _read_in_folder(file.parent / tensor.location, remaining)
        if tensor.offset + tensor.size > len(read[tensor.location]):
            actual = f"the weights {format_value(tensor.name)} up to byte {tensor.offset + tensor.size}"
            do = "get both files again"
            _refuse(
                location,
                f"expected at most the {len(read[tensor.location])} bytes of '{tensor.location}', found {actual}",
                do,
            )
    return read


def _read_in_folder(path: Path, max_bytes: int) -> bytes:
    """Read a file that the user did not name: it must be neither a link nor a hard link, which could be any file."""
    try:
        if is_link(os.lstat(path)):
            _refuse(str(path), "expected a file, found a link", f"{_COPY} (cp -rL)", "bad-file")
    except OSError as error:
        _refuse(str(path), f"expected a file that can be read, found: {error.strerror}", "check the path", "bad-file")
    return _read(path, max_bytes, _NO_LINK, names=1)


def _read(path: Path, max_bytes: int, flags: int = _FLAGS, names: int | None = None) -> bytes:
    """Read a regular file of at most `max_bytes` bytes. names: the number of hard links that it must have."""
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                _refuse(str(path), "expected a file, found a folder or a device", "give a file", "bad-file")
            if names is not None and status.st_nlink != names:
                message = f"expected a file of one name, found one with {status.st_nlink} hard links"
                _refuse(str(path), message, f"{_COPY} (cp -r)", "bad-file")
            if status.st_size > max_bytes:
                message = f"expected at most {max_bytes} bytes, found {status.st_size}"
                do = f"give a smaller model, or raise the limit: --limit file_bytes={status.st_size}"
                _refuse(str(path), message, do, "bad-file")
            return file.read(status.st_size)
    except OSError as error:
        _refuse(str(path), f"expected a file that can be read, found: {error.strerror}", "check the path", "bad-file")


def _read_tensors(location: str, nodes: Iterable[Any]) -> tuple[Tensor, ...]:
    """The inputs or the outputs of a graph."""
    tensors = []
    for node in nodes:
        name, dtype = node.name, dtype_name(node.type)
        if dtype not in DTYPES:
            actual = f"{format_value(name)} of {node.type}"
            message = f"expected tensors of {', '.join(DTYPES)} as inputs and outputs, found {actual}"
            _refuse(location, message, "export the model again with one of these types")
        dims = tuple(dim if isinstance(dim, int) else f"{name}.{i}" for i, dim in enumerate(node.shape))
        tensors.append(Tensor(name, dtype, dims))
    return tuple(tensors)


def _refuse(location: str, message: str, do: str, code: str = "bad-graph") -> NoReturn:
    raise BundleError(location, code, f"{message}; {do}")
