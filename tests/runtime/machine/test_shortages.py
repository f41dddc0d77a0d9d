"""A lack of disk space or memory becomes a sentence with a remedy, whoever raised the error."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from guidegraph_runtime.error_text import describe_error, error_text, list_causes
from guidegraph_runtime.files.atomic_write import atomic_path, write_text
from guidegraph_runtime.machine.memory import available_memory
from guidegraph_runtime.machine.shortages import WriteError, explain_shortage, with_shortage
from tests.os_limits import file_limit


class OutOfMemoryError(RuntimeError):
    """As torch calls what CUDA raises."""


class RuntimeException(Exception):
    """As onnxruntime calls it."""


RuntimeException.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"

TORCH = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "21600000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a capacity of 23.64 GiB of which 1.50 GiB is free."
ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : BFCArena: Failed to allocate memory for requested buffer of size 21"
)


@pytest.mark.parametrize(
    ("error", "texts"),
    [
        (RuntimeError(TORCH), ["not enough memory: 21.6 TB were asked for", "are available", "decode in tiles"]),
        (MemoryError(), ["not enough memory", "make the pictures or the batch smaller"]),
        (MemoryError("Unable to allocate 824. MiB for an array with shape (3, 6000, 6000)"), ["865 MB were asked for"]),
        (RuntimeError("Storage size calculation overflowed with sizes=[300000]"), ["not enough memory"]),
        (RuntimeException("std::bad_alloc"), ["not enough memory"]),
        (RuntimeException(ARENA), ["21 bytes were asked for"]),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ["not enough memory"]),
        (OutOfMemoryError(CUDA), ["the device has not", "21.5 GB were asked for", "1.62 GB are available", "--dtype"]),
        (RuntimeException("CUDA failure 2: out of memory ; GPU=0"), ["the device has not enough memory"]),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), ["the device has not enough memory"]),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 21 bytes"), ["there is not enough memory"]),
        (ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger"), ["there is not enough memory"]),
        (RuntimeError("CUDA error: out of memory"), ["the device has not enough memory", "--memory-budget"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.bin"),
            ["'x.bin' cannot be written: no space", "free some"],
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ["your quota on this disk is used up"]),
        (OSError(errno.EROFS, "Read-only file system"), ["the file system is read-only; write to another folder"]),
        (OSError("100000 requested and 12500 written"), ["no space is left on the disk"]),
    ],
)
def test_a_shortage_is_a_sentence_with_a_remedy(error: Exception, texts: list[str]) -> None:
    sentence = explain_shortage(error)
    assert [text for text in texts if text not in sentence] == []
    assert with_shortage("its text", error) == sentence


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError("the word list ran out of memory words"),
        ValueError("'not enough memory' is not a class of the data set"),
        RuntimeError("the camera is out of memory: empty its card"),
        RuntimeError("shapes differ"),
        PermissionError(errno.EACCES, "denied", "x"),
        KeyError("x"),
    ],
)
def test_another_error_is_no_shortage(error: Exception) -> None:
    assert explain_shortage(error) == ""
    assert with_shortage("its text", error) == "its text"


def test_a_cause_that_ran_out_of_something_is_told_too() -> None:
    error = ValueError("the file cannot be decoded")
    error.__cause__ = MemoryError()
    assert with_shortage("the file cannot be decoded", error).startswith(
        "the file cannot be decoded: there is not enough memory"
    )


def test_available_memory_is_at_most_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    free = available_memory()
    assert free is not None
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**6, 10**6))
    assert available_memory() == 0


class Raises(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Recurses(Exception):
    def __str__(self) -> str:
        return str(self)


class NoString(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class OddString(str):
    def __format__(self, spec: str) -> str:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class Odd(Exception):
    def __str__(self) -> str:
        return OddString("odd")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Raises(), "Raises: (its text cannot be shown: its __str__ raised KeyboardInterrupt)"),
        (Recurses(), "Recurses: (its text cannot be shown: its __str__ raised RecursionError)"),
        (NoString(), "NoString: (its text cannot be shown: its __str__ raised TypeError)"),
        (Odd(), "Odd: odd"),
        (ValueError(), "ValueError"),
        (ValueError("a"), "ValueError: a"),
    ],
)
def test_an_exception_says_something_whatever_its_code_does(error: Exception, text: str) -> None:
    assert describe_error(error) == text


def test_a_long_text_is_cut() -> None:
    text = error_text(ValueError("x" * 10_000_000))
    assert len(text) < 5000
    assert text.endswith("… (10000000 characters)")


def test_causes_that_lead_in_a_circle_are_listed_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list_causes(first) == [first, second]


def test_a_file_that_is_too_large_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with file_limit(1000), pytest.raises(WriteError) as refused:
        write_text(tmp_path / "a.txt", "x" * 5000)
    assert str(refused.value).startswith(
        f"'{tmp_path / 'a.txt'}' cannot be written: it would be larger than a file may"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def write_with_a_library(path: Path) -> None:
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        save_file({"x": np.zeros(5000)}, temporary)


def test_an_error_that_only_its_text_tells_is_the_systems(tmp_path: Path) -> None:
    with file_limit(1000), pytest.raises(WriteError, match=r"a\.safetensors' cannot be written: it would be larger"):
        write_with_a_library(tmp_path / "a.safetensors")
