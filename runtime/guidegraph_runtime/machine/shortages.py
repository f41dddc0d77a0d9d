"""Explain a lack of disk space or memory, with remedies."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from guidegraph_runtime.error_text import error_text, list_causes
from guidegraph_runtime.machine.memory import available_memory, show_size

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
    r"can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|failed to allocate memory"
    r"|unable to allocate|ALLOC_FAILED|size calculation overflowed|bad allocation"
    # Within a text this may be said of anything, so it counts where a library says of which device, or for how much.
    r"|^out of memory$|\b(?:CUDA|HIP|MPS|XPU)\b.{0,60}out of memory|out of memory.{0,60}\ballocat",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"^array is too big", re.IGNORECASE)  # NumPy's ValueError
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
    """A file cannot be written. The text has the file, the reason and a remedy."""

    def __init__(self, path: str | os.PathLike[str], number: int):
        super().__init__(number, write_reason(number, path), os.fspath(path))

    def __str__(self) -> str:
        return f"'{self.filename}' cannot be written: {self.strerror}"


def os_error_number(error: BaseException) -> int | None:
    """The ``errno`` of an exception, also if only its text contains it; None if it has none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = error_text(error)
    if match := _ERROR_NUMBER.search(text):
        return int(match[1])
    return errno.ENOSPC if _SHORT_WRITE.search(text) else None


def is_disk_error(number: int) -> bool:
    """Whether an ``errno`` means that the disk is full, read-only, forbidden or broken."""
    return errno.errorcode.get(number) in _DISK


def write_reason(number: int, path: str | os.PathLike[str] | None = None) -> str:
    """The reason why a file cannot be written, by ``errno``, with a remedy. path: the file, which need not exist."""
    name = errno.errorcode.get(number, "")
    if name not in _DISK:
        return os.strerror(number)
    free = _free_space(path) if name == "ENOSPC" and path is not None else None
    return _DISK[name].format(free="" if free is None else f" ({show_size(free)} free)")


def explain_shortage(error: BaseException) -> str:
    """Explain a shortage of memory or disk, with a remedy; "" for any other exception.

    A lack of permission is not a shortage: it may concern reading.
    """
    if shortage := _memory(error):
        return shortage
    if isinstance(error, WriteError):
        return str(error)
    number = os_error_number(error)
    if number is None or errno.errorcode.get(number) not in _ALWAYS_OF_WRITING:
        return ""
    file = error.filename if isinstance(error, OSError) and isinstance(error.filename, (str, os.PathLike)) else None
    subject = "a file" if file is None else f"'{os.fspath(file)}'"
    return f"{subject} cannot be written: {write_reason(number, file)}"


def with_shortage(text: str, error: BaseException) -> str:
    """Replace ``text`` by the explanation if the exception is a shortage, or append the explanation of its cause."""
    if shortage := explain_shortage(error):
        return shortage
    shortage = next(filter(None, map(explain_shortage, list_causes(error)[1:])), "")
    return f"{text}: {shortage}" if shortage and shortage not in text else text


def _memory(error: BaseException) -> str:
    text = error_text(error)
    kind = {cls.__name__ for cls in type(error).__mro__}
    is_out = isinstance(error, MemoryError) or "OutOfMemoryError" in kind or os_error_number(error) == errno.ENOMEM
    if isinstance(error, RuntimeError) or "onnxruntime" in type(error).__module__:
        is_out = is_out or bool(_NO_MEMORY.search(text))
    elif isinstance(error, ValueError):
        is_out = is_out or bool(_TOO_LARGE.search(text))
    if not is_out:
        return ""
    device = ("OutOfMemoryError" in kind or bool(_ON_DEVICE.search(text))) and "CPUAllocator" not in text
    requested = _size(_REQUESTED.search(text))
    free = _size(_FREE_ON_DEVICE.search(text)) if device else available_memory()
    figures = [f"{show_size(requested)} were asked for"] if requested is not None else []
    if free is not None and (requested is None or free < requested):  # otherwise the memory has been freed since
        figures.append(f"{show_size(free)} are available")
    remedies = "make the pictures or the batch smaller, or decode in tiles (autoencoder.tiled)"
    if device:
        remedies += "; or use a smaller dtype (--dtype bfloat16), or keep fewer weights there (--memory-budget)"
    shortage = "the device has not enough memory" if device else "there is not enough memory"
    return f"{shortage}{': ' if figures else ''}{', '.join(figures)}; {remedies}"


def _size(match: re.Match[str] | None) -> int | None:
    return None if match is None else round(float(match[1]) * _UNITS[(match[2] or "bytes").upper()])


def _free_space(path: str | os.PathLike[str]) -> int | None:
    """The free bytes on the disk of a path."""
    absolute = Path(path).absolute()
    for folder in (absolute, *absolute.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None
