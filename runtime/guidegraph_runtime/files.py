"""Writing files so that no reader, and no crash, ever meets a half-written one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str], durable: bool = True) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends and is removed when it fails.

    It lies in the same folder (made if missing), so that the rename is atomic, and has the same suffix, since Pillow,
    NumPy and others choose the format by it. What is not `durable` may be lost, or empty, after a power cut.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Long names are cut: the temporary name must fit the file system's limit too.
    temporary = target.with_name(f".{target.stem[:64]}-{secrets.token_hex(6)}.tmp{target.suffix[:32]}")
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes, durable: bool = True) -> None:
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, durable: bool = True) -> None:
    """UTF-8 with the line ends as they are in `text`, on every system."""
    write_bytes(path, text.encode(), durable)


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut may leave the new name on an empty file. "r+b": Windows flushes only what is open to write.
    with path.open("r+b") as file:
        os.fsync(file.fileno())
