"""What a machine runs out of, disk and memory, as sentences that say what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from guidegraph_runtime.error_text import causes, error_text
from guidegraph_runtime.machine import available_memory
from guidegraph_runtime.sizes import show_size

_UNITS = {"BYTES": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = r"(\d{1,20}(?:\.\d{0,6})?) ?(bytes|B|[KMGT]iB)?"
_REQUESTS = (
    r"tried to allocate",  # torch, on the CPU and on CUDA
    r"Unable to allocate",  # NumPy
    r"requested buffer of size",  # onnxruntime's arena
    r"Requested size",  # tensorrt
)
_REQUESTED = re.compile(rf"(?:{'|'.join(_REQUESTS)})[ :]*{_SIZE}", re.IGNORECASE)
_FREE_ON_DEVICE = re.compile(rf"of which {_SIZE} is free", re.IGNORECASE)
_ON_DEVICE = re.compile(r"\b(CUDA|CUBLAS|CUDNN|HIP|MPS|XPU)", re.IGNORECASE)
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|failed to allocate memory"
    r"|unable to allocate|ALLOC_FAILED|size calculation overflowed|array is too big|bad allocation",
    re.IGNORECASE,
)
_ERROR_NUMBER = re.compile(r"\(os error (\d{1,5})\)")  # how libraries written in Rust, such as safetensors, end a text
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy.ndarray.tofile, without an error number

_DISK = {
    "ENOSPC": "no space is left on the disk{free}; free some space, or write to another disk",
    "EDQUOT": "your quota on this disk is used up; free some space, or write to another disk",
    "EFBIG": "it would be larger than a file may be here; raise the limit (ulimit -f), or write to another disk",
    "EROFS": "the file system is read-only; write to another folder",
    "EACCES": "permission denied; write to another folder, or change who may write there",
    "EPERM": "permission denied; write to another folder, or change who may write there",
    "EIO": "the disk reports an input/output error; check it, or write to another disk",
    "EMFILE": "too many files are open; raise the limit (ulimit -n)",
}
_ALWAYS_OF_WRITING = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS")


class WriteError(OSError):
    """A file cannot be written. The text says which, why, and what to do."""

    def __init__(self, path: str | os.PathLike[str], number: int):
        super().__init__(number, write_reason(number, path), os.fspath(path))

    def __str__(self) -> str:
        return f"'{self.filename}' cannot be written: {self.strerror}"


def os_error_number(error: BaseException) -> int | None:
    """The ``errno`` of an exception, also of one that only tells it in its text; None where it has none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = error_text(error)
    if found := _ERROR_NUMBER.search(text):
        return int(found[1])
    return errno.ENOSPC if _SHORT_WRITE.search(text) else None


def is_of_disk(number: int) -> bool:
    """Whether an ``errno`` says that the disk is full, read-only, forbidden or broken."""
    return errno.errorcode.get(number) in _DISK


def write_reason(number: int, path: str | os.PathLike[str] | None = None) -> str:
    """Why a file cannot be written, by ``errno``, and what to do. path: the file, which need not be there."""
    name = errno.errorcode.get(number, "")
    if name not in _DISK:
        return os.strerror(number)
    free = _free_space(path) if name == "ENOSPC" and path is not None else None
    return _DISK[name].format(free="" if free is None else f" ({show_size(free)} free)")


def explain_shortage(error: BaseException) -> str:
    """What ran out, and what to do; "" for an exception that is about something else.

    A lack of permission is no shortage: it may be about reading.
    """
    return _memory(error) or _disk(error)


def with_shortage(text: str, error: BaseException) -> str:
    """What is said of an exception: ``text``, or what ran out in its place; a cause that ran out of it is added."""
    if shortage := explain_shortage(error):
        return shortage
    shortage = next(filter(None, map(explain_shortage, causes(error)[1:])), "")
    return f"{text}: {shortage}" if shortage and shortage not in text else text


def _disk(error: BaseException) -> str:
    if isinstance(error, WriteError):
        return str(error)
    number = os_error_number(error)
    if number is None or errno.errorcode.get(number) not in _ALWAYS_OF_WRITING:
        return ""
    file = error.filename if isinstance(error, OSError) and isinstance(error.filename, (str, os.PathLike)) else None
    what = "a file" if file is None else f"'{os.fspath(file)}'"
    return f"{what} cannot be written: {write_reason(number, file)}"


def _memory(error: BaseException) -> str:
    text = error_text(error)
    kind = {cls.__name__ for cls in type(error).__mro__}
    short = isinstance(error, MemoryError) or "OutOfMemoryError" in kind or os_error_number(error) == errno.ENOMEM
    if not short and not (isinstance(error, (RuntimeError, ValueError)) or "onnxruntime" in type(error).__module__):
        return ""
    if not short and not _NO_MEMORY.search(text):
        return ""
    device = ("OutOfMemoryError" in kind or bool(_ON_DEVICE.search(text))) and "CPUAllocator" not in text
    requested = _size(_REQUESTED.search(text))
    free = _size(_FREE_ON_DEVICE.search(text)) if device else available_memory()
    figures = [f"{show_size(requested)} were asked for"] if requested is not None else []
    if free is not None and (requested is None or free < requested):  # else what it had taken is free again by now
        figures.append(f"{show_size(free)} are available")
    remedies = "make the pictures or the batch smaller, or decode in tiles (autoencoder.tiled)"
    if device:
        remedies += "; or use a smaller dtype (--dtype bfloat16), or keep fewer weights there (--memory-budget)"
    where = "the device has not enough memory" if device else "there is not enough memory"
    return f"{where}{': ' if figures else ''}{', '.join(figures)}; {remedies}"


def _size(found: re.Match[str] | None) -> int | None:
    return None if found is None else round(float(found[1]) * _UNITS[(found[2] or "bytes").upper()])


def _free_space(path: str | os.PathLike[str]) -> int | None:
    """Free bytes of the disk that a path is on."""
    place = Path(path).absolute()
    for folder in (place, *place.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None
