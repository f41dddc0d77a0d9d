"""An ONNX file that others wrote, opened as the parts of a bundle are: checked, then run from the checked bytes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from guidegraph_runtime.binding import dtype_name
from guidegraph_runtime.errors import BundleError, shown
from guidegraph_runtime.limits import current_limits
from guidegraph_runtime.manifest_types import DTYPES, Part, Tensor
from guidegraph_runtime.names import MANIFEST, wrong_file_name
from guidegraph_runtime.onnx_graph import OnnxGraph, read_graph
from guidegraph_runtime.onnx_wire import Malformed
from guidegraph_runtime.opsets import STANDARD
from guidegraph_runtime.reading import is_link
from guidegraph_runtime.sessions import Session, SessionSettings, create_session
from guidegraph_runtime.verify import check_operators

SUFFIX = ".onnx"
_EXPORT_AGAIN = "export the model again, with standard operators only and without fusing operators for onnxruntime"
# Without O_NONBLOCK a pipe in a file's place would wait for a writer; flags that a system lacks are 0.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_NO_LINK = _FLAGS | getattr(os, "O_NOFOLLOW", 0)
_COPY = "copy the files themselves into a folder of their own"


@dataclass(frozen=True)
class GraphFile:
    """A checked file in a session. `session.part` is what the graph declares; nbytes: of the graph and its weights.

    An axis that the graph leaves open has a name of its own in each tensor.
    """

    path: Path
    session: Session
    nbytes: int


def is_bundle(path: Path) -> bool:
    """Whether a path is the folder of a bundle."""
    return (path / MANIFEST).is_file()


def open_graph_file(path: Path, settings: SessionSettings | None = None, max_bytes: int | None = None) -> GraphFile:
    """A session on an ONNX file, or on the only one in a folder, with the weights that lie beside it in that folder.

    The file may be named by a link; what is taken from a folder, the graph or its weights, may be no link and have no
    second name (a hard link), so that it is none of another folder's files. Every file is read once; the graph is
    checked as that of a bundle is: its wire format, standard operators of known versions, and weights outside of it
    only in files of its folder. Operator sets that it names and does not use are no matter. Raises ``BundleError`` for
    anything else, for more than `max_bytes` in all, and for weights beside a graph that is given without its folder.
    """
    max_bytes = current_limits().file_bytes if max_bytes is None else max_bytes
    file = _graph_path(path)
    where = str(file)
    data = _read(file, max_bytes) if file == path else _read_in_folder(file, max_bytes)
    try:
        graph = read_graph(data)
    except Malformed as error:
        _refuse(where, f"expected an ONNX graph, found {error}", "export the model again")
    used = {domain for domain, _ in graph.operators}
    graph.opsets = {domain: version for domain, version in graph.opsets.items() if domain in {*STANDARD, *used}}
    check_operators(where, graph, _EXPORT_AGAIN)
    weights = _weights(file, graph, whole_folder=file != path, max_bytes=max_bytes - len(data))
    settings = settings or SessionSettings.on()
    session = create_session(where, data, weights, settings)
    part = Part(file.name, *_declared(where, session), graph.opsets, tuple(weights))
    nbytes = len(data) + sum(map(len, weights.values()))
    import onnxruntime

    return GraphFile(file, Session(where, part, session, settings, onnxruntime), nbytes)


def _graph_path(path: Path) -> Path:
    if not path.exists():
        _refuse(str(path), f"expected an {SUFFIX} file or the folder of a bundle, found nothing", "check the path")
    if not path.is_dir():
        if path.suffix.lower() != SUFFIX:
            _refuse(str(path), f"expected an {SUFFIX} file or a folder with one, found {shown(path.name)}", "give that")
        return path
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(files) != 1:
        names = ", ".join(shown(file.name) for file in files[:8]) or "none"
        do = f"give the file, or a folder that holds one graph and its weights; a bundle has a {MANIFEST}"
        _refuse(str(path), f"expected one {SUFFIX} file in the folder, found {names}", do)
    return files[0]


def _weights(file: Path, graph: OnnxGraph, whole_folder: bool, max_bytes: int) -> dict[str, bytes]:
    """The files that a graph's weights lie in, by name: all of them in its folder."""
    where, read = str(file), dict[str, bytes]()
    for one in graph.externals:
        if (wrong := wrong_file_name(one.location)) is not None:
            do = "save the model again with its weights beside it, or inside of it"
            _refuse(where, f"expected for the weights {shown(one.name)} {wrong}, found {shown(one.location)}", do)
        if not whole_folder:  # a node reads what its setting names, and no file beside it: caches and permissions hold
            do = f"give the folder '{file.parent}' as the path, with no other graph in it"
            _refuse(where, f"expected all weights in the file, found some in {shown(one.location)}", do)
        if one.location not in read:
            rest = max_bytes - sum(map(len, read.values()))
            read[one.location] = _read_in_folder(file.parent / one.location, rest)
        if one.offset + one.size > len(read[one.location]):
            found = f"the weights {shown(one.name)} up to byte {one.offset + one.size}"
            do = "get both files again"
            _refuse(
                where, f"expected at most the {len(read[one.location])} bytes of '{one.location}', found {found}", do
            )
    return read


def _read_in_folder(path: Path, max_bytes: int) -> bytes:
    """The same for a file that nobody named: neither a link nor of a second name, which may be any file's."""
    try:
        if is_link(os.lstat(path)):
            _refuse(str(path), "expected a file, found a link", f"{_COPY} (cp -rL)", "bad-file")
    except OSError as error:
        _refuse(str(path), f"expected a file that can be read, found: {error.strerror}", "check the path", "bad-file")
    return _read(path, max_bytes, _NO_LINK, names=1)


def _read(path: Path, max_bytes: int, flags: int = _FLAGS, names: int | None = None) -> bytes:
    """All bytes of a regular file, at most `max_bytes` of them; names: how many hard links it must have."""
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                _refuse(str(path), "expected a file, found a folder or a device", "give a file", "bad-file")
            if names is not None and status.st_nlink != names:
                message = f"expected a file of one name, found one with {status.st_nlink} hard links"
                _refuse(str(path), message, f"{_COPY} (cp -r)", "bad-file")
            if status.st_size > max_bytes:
                found = f"expected at most {max_bytes} bytes, found {status.st_size}"
                do = f"give a smaller model, or raise the limit: --limit file_bytes={status.st_size}"
                _refuse(str(path), found, do, "bad-file")
            return file.read(status.st_size)
    except OSError as error:
        _refuse(str(path), f"expected a file that can be read, found: {error.strerror}", "check the path", "bad-file")


def _declared(where: str, session: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and outputs that a graph declares."""
    return tuple(
        tuple(_tensor(where, node.name, node.type, node.shape) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )  # type: ignore[return-value]


def _tensor(where: str, name: str, kind: str, shape: Any) -> Tensor:
    dtype = dtype_name(kind)
    if dtype not in DTYPES:
        message = f"expected tensors of {', '.join(DTYPES)} as inputs and outputs, found {shown(name)} of {kind}"
        _refuse(where, message, "export the model again with one of these types")
    return Tensor(name, dtype, tuple(dim if isinstance(dim, int) else f"{name}.{i}" for i, dim in enumerate(shape)))


def _refuse(where: str, message: str, do: str, code: str = "bad-graph") -> NoReturn:
    raise BundleError(where, code, f"{message}; {do}")
