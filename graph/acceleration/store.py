"""The exported parts on disk: the one place that reads and writes them.

A folder for each key has a folder for each graph: its ONNX file or files, and ``part.json`` with their checksums. A
graph is written to a temporary folder and renamed. One whose checksums do not match is removed and made again. The
least recently used graphs are removed when all of them take more than ``MOST_BYTES``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from guidegraph.graph.acceleration.part import WatchedSize
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph_runtime.error_text import describe_error
from guidegraph_runtime.files.atomic_write import atomic_folder, remove_stale_once, write_text
from guidegraph_runtime.files.regular_files import read_json
from guidegraph_runtime.files.run_folders import user_cache_folder
from guidegraph_runtime.machine.shortages import explain_shortage, with_shortage

FOLDER = "GUIDEGRAPH_ACCELERATED"
"""The environment variable that names the folder, or is ``off``."""

MOST_BYTES = 20_000_000_000
MOST_GRAPHS = 8
"""Graphs of one part, which differ in fixed sizes; the least recently used ones are removed."""

FORMAT = 1
MOST_COMPARED = 64
"""Situations in which a part was compared with torch that are noted; the latest ones are kept."""

GRAPH, DESCRIPTION, REFUSAL, COMPARED = "graph.onnx", "part.json", "refused.json", "compared.json"
log = logging.getLogger(__name__)

Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class GraphDescription:
    """The interface of a part's graph.

    inputs: the name and sizes of each; a name stands for a free size. multiples: what free sizes must be multiples of.
    watched: the sizes that are watched, which are the last outputs.
    """

    inputs: tuple[tuple[str, Dims], ...]
    outputs: tuple[str, ...]
    multiples: dict[str, int]
    watched: tuple[WatchedSize, ...]


@dataclass(frozen=True)
class StoredGraph:
    """A part's graph. files: the contents of its ONNX file, ``GRAPH``, and of its weights' file, if it has one."""

    description: GraphDescription
    files: dict[str, bytes]


@dataclass(frozen=True)
class Refusal:
    """A part that cannot be exported: the position of the call at fault, or None, and the reason."""

    call: int | None
    reason: str


class KnownRefusal(Exception):
    """An earlier run could not export a part."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.reason)
        self.refusal = refusal


class PartStore:
    """The graphs in one folder; with None, nothing is kept."""

    def __init__(self, folder: Path | None, most_bytes: int = MOST_BYTES):
        self.folder, self.most_bytes = folder, most_bytes
        if folder is not None and folder.is_dir():
            remove_stale_once(folder)

    def find(self, key: str, fits: Callable[[GraphDescription], bool]) -> StoredGraph | None:
        """The first graph of a part that fits. The time of its use is noted; a damaged one is removed."""
        for folder in self._list_graphs(key):
            try:
                described = _read_description(folder)
                if not fits(described[0]):
                    continue
                graph = StoredGraph(described[0], _read_files(folder, described[1]))
            except (OSError, ValueError, LookupError, TypeError) as error:
                log.warning("an accelerated part is exported again: %s is damaged: %s", folder, describe_error(error))
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with suppress(OSError):
                os.utime(folder)
            return graph
        return None

    def add(self, key: str, description: GraphDescription, save: Callable[[Path], object]) -> StoredGraph:
        """Keep a graph, which a function writes to a path, and return it."""
        if self.folder is not None:
            name = hashlib.sha256(json.dumps(asdict(description)).encode()).hexdigest()[:16]
            try:
                return self._write(self.folder / key / name, description, save)
            except (OSError, MemoryError, RuntimeError) as error:
                if not isinstance(error, OSError) and not explain_shortage(error):
                    raise
                reason = with_shortage(describe_error(error), error)
                log.warning("an accelerated part is not kept for other runs: %s", reason)
        with TemporaryDirectory() as temporary:
            save(Path(temporary) / GRAPH)
            return StoredGraph(description, _read_all(Path(temporary)))

    def _write(self, target: Path, description: GraphDescription, save: Callable[[Path], object]) -> StoredGraph:
        assert self.folder is not None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            save(folder / GRAPH)
            graph = StoredGraph(description, _read_all(folder))
            checksums = {name: hashlib.sha256(data).hexdigest() for name, data in graph.files.items()}
            text = json.dumps({"format": FORMAT, "files": checksums, "graph": asdict(description)})
            (folder / DESCRIPTION).write_text(text, encoding="utf-8")
            (target.parent / COMPARED).unlink(missing_ok=True)  # before anybody can find the graph
        self._remove_oldest(keep=target)
        return graph

    def find_refusal(self, key: str) -> Refusal | None:
        """The reason why an earlier run could not export a part; None if there is none."""
        if self.folder is None:
            return None
        try:
            return Refusal(**read_json(self.folder / key / REFUSAL))
        except (OSError, ValueError, TypeError):
            return None

    def add_refusal(self, key: str, refusal: Refusal) -> None:
        """Note that a part cannot be exported, so that other runs need not try."""
        if self.folder is not None:
            with suppress(OSError):
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_text(self.folder / key / REFUSAL, json.dumps(asdict(refusal)), durable=False)

    def was_compared(self, key: str, situation: str) -> bool:
        """Whether the graphs of a part were compared with torch in a situation."""
        return situation in self._read_compared(key)

    def note_compared(self, key: str, situation: str) -> None:
        """Note that a graph of a part gives torch's results in a situation."""
        if self.folder is not None and self._list_graphs(key):
            situations = [*(other for other in self._read_compared(key) if other != situation), situation]
            with suppress(OSError):
                write_text(self.folder / key / COMPARED, json.dumps(situations[-MOST_COMPARED:]), durable=False)

    def _read_compared(self, key: str) -> list[str]:
        if self.folder is None or not self._list_graphs(key):
            return []
        try:
            situations = read_json(self.folder / key / COMPARED)
        except (OSError, ValueError):
            return []
        return situations if isinstance(situations, list) else []

    def _list_graphs(self, key: str) -> list[Path]:
        """The folders of a part's graphs. Graphs that another user made are left out."""
        if self.folder is None or not (self.folder / key).is_dir():
            return []
        if hasattr(os, "getuid") and self.folder.stat().st_uid != os.getuid():
            return []
        return sorted(path.parent for path in (self.folder / key).glob(f"*/{DESCRIPTION}"))

    def _remove_oldest(self, keep: Path) -> None:
        """Remove the least recently used graphs beyond ``most_bytes`` in all, and ``MOST_GRAPHS`` of one part."""
        assert self.folder is not None
        graphs = [path.parent for path in self.folder.glob(f"*/*/{DESCRIPTION}")]
        with suppress(OSError):  # another process may remove them too
            sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in graphs}
            total = sum(sizes.values())
            for folder in sorted(graphs, key=lambda path: path.stat().st_mtime):
                if total <= self.most_bytes:
                    break
                if folder != keep:
                    shutil.rmtree(folder, ignore_errors=True)
                    total -= sizes[folder]
        with suppress(OSError):
            older_graphs = [folder for folder in self._list_graphs(keep.parent.name) if folder != keep]
            older_graphs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for folder in older_graphs[MOST_GRAPHS - 1 :]:
                shutil.rmtree(folder, ignore_errors=True)


def store_folder(config: RunConfig) -> Path | None:
    """The folder of exported parts: in the run's disk cache, or else the user's. None: nothing is kept."""
    if config.cache is not None:
        return config.cache.absolute() / "accelerated"
    return user_cache_folder("accelerated", FOLDER)


def _read_description(folder: Path) -> tuple[GraphDescription, dict[str, str]]:
    """The description of a graph, and the checksums of its files. Raises for text that is something else."""
    stored = read_json(folder / DESCRIPTION)
    if stored["format"] != FORMAT:
        raise ValueError(f"expected the format {FORMAT}, found {stored['format']}")
    graph = stored["graph"]
    inputs = tuple((name, tuple(dims)) for name, dims in graph["inputs"])
    watched = tuple(WatchedSize(**size) for size in graph["watched"])
    return GraphDescription(inputs, tuple(graph["outputs"]), dict(graph["multiples"]), watched), stored["files"]


def _read_files(folder: Path, checksums: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a graph. Raises ``ValueError`` for one that is not as it was written."""
    files = _read_all(folder)
    if files.keys() != checksums.keys():
        raise ValueError(f"expected the files {', '.join(checksums)}, found {', '.join(files)}")
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != checksums[name]:
            raise ValueError(f"the contents of {name} have changed")
    return files


def _read_all(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.iterdir()) if path.name != DESCRIPTION]
    return {path.name: read_regular(path, limit="file_bytes") for path in paths}
