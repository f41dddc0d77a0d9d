"""A device ``cuda:0`` for tests, in a build of torch without CUDA: compiled once for a version of torch, with g++.

Load it before torch is imported, in a process of its own. ``record`` then lists each kernel, copy and wait of a block,
with the line of this project that caused it. Where torch has CUDA, nothing is simulated, and nothing is recorded.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

SOURCE = Path(__file__).with_name("simulated_cuda.cpp")
COMPILE = ("g++", "-O1", "-std=c++20", "-shared", "-fPIC")
OUTSIDE = ("torch", "ctypes", "guidegraph_testing", "__main__", "contextlib", "copy")
"""Modules that stand between a node and the device."""
NAME = "simulated CUDA device"
MEMORY = 80 * 2**30

Listener = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)


class Event(NamedTuple):
    """kind: "kernel", "copy", "blocking" (an upload from pageable memory) or "wait". line: FILE:LINE, or "" outside."""

    kind: str
    name: str
    line: str


def find_reason() -> str:
    """Why the device cannot be simulated here; "" if it can."""
    if shutil.which(COMPILE[0]) is None:
        return f"there is no {COMPILE[0]}"
    if not (_find_torch() / "include" / "ATen").is_dir():
        return "torch has no headers"
    return ""


def build() -> Path:
    """Compile the device for this version of torch, unless it is there. Raises ``CalledProcessError``."""
    torch = _find_torch()
    version = importlib.metadata.version("torch")
    digest = hashlib.sha256(SOURCE.read_bytes() + version.encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guidegraph-testing"
    library = folder / f"simulated_cuda-{digest}.so"
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}")
        include = torch / "include"
        folders = [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}", f"-L{torch / 'lib'}"]
        subprocess.run([*COMPILE, *folders, str(SOURCE), "-o", str(partial), "-lc10", "-ltorch_cpu"], check=True)
        partial.replace(library)
    return library


def load() -> None:
    """Add the device to this process, unless torch has CUDA. Raises ``RuntimeError`` if torch is imported already."""
    if "+cu" in importlib.metadata.version("torch"):
        return
    if "torch" in sys.modules:
        raise RuntimeError("load the device before torch, which looks for CUDA when it is imported")
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(_find_torch() / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    _device.library = ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)

    torch = import_module("torch")
    _device.library.guidegraph_start()
    _set_up(torch)


def is_loaded() -> bool:
    """Whether this process has the device."""
    return _device.library is not None


@contextmanager
def record() -> Iterator[list[Event]]:
    """The events of a block, in order."""
    events: list[Event] = []
    if _device.library is None:
        yield events
        return

    def hear(kind: bytes, name: bytes) -> None:
        text = kind.decode()
        events.append(Event(text, name.decode(), "" if text == "kernel" else find_line()))

    heard = Listener(hear)
    _device.library.guidegraph_listen(heard)
    _device.heard = events
    try:
        yield events
    finally:
        _device.library.guidegraph_listen(Listener())
        _device.heard = None


def find_line() -> str:
    """The innermost line of a node on the stack, of this project or a plugin; else of the engine. "" outside a run."""
    frame: Any = sys._getframe(1)
    place = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        line = f"{module.replace('.', '/')}.py:{frame.f_lineno}"
        if module.startswith(("guidegraph.graph", "guidegraph_testing.arguments")):
            return place or line
        if not place and not module.startswith(OUTSIDE):
            place = line
        frame = frame.f_back
    return ""


_device = SimpleNamespace(library=None, heard=None)


def _find_torch() -> Path:
    spec = find_spec("torch")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _wait(*_: object) -> None:
    if _device.heard is not None:
        _device.heard.append(Event("wait", "synchronize", find_line()))


class Stream:
    """The one stream of the device, in which all is done already."""

    cuda_stream = 0

    def __getattr__(self, name: str) -> Any:
        return _wait if name == "synchronize" else lambda *_: None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None: ...


class Current:
    """``torch.cuda.device``: there is one device."""

    def __init__(self, _device: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _set_up(torch: Any) -> None:
    """Answer for torch.cuda, whose own answers come from the missing part of torch."""
    properties = SimpleNamespace(name=NAME, major=9, minor=0, total_memory=MEMORY, multi_processor_count=132)
    answers: dict[str, Any] = {
        "current_device": 0,
        "current_stream": Stream(),
        "default_stream": Stream(),
        "device_count": 1,
        "empty_cache": None,
        "get_device_capability": (9, 0),
        "get_device_name": NAME,
        "get_device_properties": properties,
        "is_available": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "is_initialized": True,
        "max_memory_allocated": 0,
        "mem_get_info": (MEMORY, MEMORY),
        "memory_allocated": 0,
        "reset_peak_memory_stats": None,
        "set_device": None,
        "_exchange_device": 0,
        "_is_compiled": True,
        "_lazy_init": None,
        "_maybe_exchange_device": 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.synchronize = _wait
    torch.cuda._initialized = True
    torch.cuda.device = Current
    torch.cuda.default_generators = torch.cuda.random.default_generators = (torch.Generator("cuda"),)
    core = {
        "_cuda_emptyCache": None,
        "_cuda_exchangeDevice": 0,
        "_cuda_getCurrentRawStream": 0,
        "_cuda_getDevice": 0,
        "_cuda_getDeviceCount": 1,
        "_cuda_init": None,
        "_cuda_isCurrentStreamCapturing": False,
        "_cuda_isInBadFork": False,
        "_cuda_maybeExchangeDevice": 0,
        "_cuda_setDevice": None,
    }
    for name, answer in core.items():
        setattr(torch._C, name, lambda *_, answer=answer: answer)
    deepcopy = torch.Tensor.__deepcopy__

    def copy_tensor(self: Any, memo: dict[int, Any]) -> Any:
        """Python makes no storages on a device that this build of torch lacks."""
        if self.device.type != "cuda" or type(self) is not torch.Tensor:
            return deepcopy(self, memo)
        if id(self) not in memo:
            memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        return memo[id(self)]

    torch.Tensor.__deepcopy__ = copy_tensor
