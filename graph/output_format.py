"""How values of a port type become files, and how a report shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import UnwritableOutput
from guidegraph.graph.types import PortType, SequenceOf, is_tensor


@dataclass(frozen=True)
class OutputFormat:
    """A file format for the values of a port type.

    type: the port type, one of the plugin's own or another; its subclasses are written in the same way. suffix: of the
    files, with its dot. write: called with a value and the path of the file that it has to write. A type whose first
    axis is "B" is written sample by sample, each without that axis, as a tensor on the CPU. Any other value is written
    by one call. read: the reverse of ``write``. html: markup that shows a value that ``read`` returned, for reports and
    the page; it may hold pictures and sounds as data URLs, but no scripts. seconds: the time after which ``write``,
    ``read`` or ``html`` is given up; None for no limit.
    """

    type: type
    suffix: str
    write: Callable[[Any, Path], object]
    read: Callable[[Path], Any] | None = None
    html: Callable[[Any], str] | None = None
    seconds: float | None = 60.0

    @property
    def name(self) -> str:
        """The name in messages, such as "Sound (.wav)"."""
        return f"{self.type.__name__} ({self.suffix})"

    @property
    def owner(self) -> str:
        """The name in messages about its functions."""
        return f"the format {self.name} of {self.write.__module__}"


Formats = Mapping[str, Sequence[OutputFormat]]
"""Formats by the names of their types."""


def find_formats(formats: Formats, kind: PortType, value: Any) -> Sequence[OutputFormat]:
    """The formats of a value: those of the type that its port declares, or else of its class; empty without any."""
    of_port = [formats_of(formats, cls) for cls in kind.alternatives]
    if of_port and of_port[0] and all(declared is of_port[0] for declared in of_port):
        return of_port[0]
    return () if is_tensor(value) else formats_of(formats, type(value))


def formats_of(formats: Formats, cls: type | SequenceOf) -> Sequence[OutputFormat]:
    """The formats of the class, or of the nearest of its bases that has some."""
    if isinstance(cls, SequenceOf):
        elements = cls.element.alternatives
        return formats_of(formats, elements[0]) if len(elements) == 1 else ()
    for base in cls.__mro__:
        of_base = formats.get(base.__name__, ()) if base is not object else ()
        if of_base and of_base[0].type is base:
            return of_base
    return ()


def split_samples(cls: type, value: Any) -> list[Any]:
    """The samples of a value of a port type: of a batch, of batches stacked by a loop, or of a sequence of batches.

    A sample of a tensor type has no batch axis. Raises ``UnwritableOutput`` for a tensor of another shape.
    """
    if isinstance(value, (list, tuple)) and not isinstance(value, cls):
        return [sample for element in value for sample in split_samples(cls, element)]
    axes: tuple[int | str, ...] = getattr(cls, "axes", None) or ()
    if axes[:1] != ("B",):
        return [value]
    sizes = axes[1:]
    fits = is_tensor(value) and value.ndim >= len(axes)
    if not fits or any(isinstance(n, int) and n != m for n, m in zip(sizes, value.shape[-len(sizes) :], strict=True)):
        shape = tuple(value.shape) if is_tensor(value) else type(value).__name__
        name = cls.__name__.lower()
        article = "an" if name[0] in "aeiou" else "a"
        raise UnwritableOutput(f"is declared as {article} {name} ({', '.join(map(str, axes))}), found {shape}")
    return list(value.detach().flatten(0, -len(axes)).cpu())
