"""A plugin with a port type of its own, whose values it shows as a text or a picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guidegraph import Image, Tensor, hookimpl, node, structured


@structured
@dataclass(frozen=True)
class Palette:
    """Colours (K), each a number. shows: what its preview is."""

    colours: Tensor
    shows: str = "text"


@node("palette.make")
def make(*, colours: list[int] | None = None, shows: str = "text") -> Palette:
    """A palette. colours: its colours, three by default. shows: what its preview is."""
    import torch

    return Palette(torch.tensor(colours or [1, 2, 3]), shows)


@node("palette.paint")
def paint(palette: Palette) -> Image:
    """A picture in the first colour of a palette."""
    import torch

    return torch.full((1, 3, 2, 2), float(palette.colours[0]) / 255)


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [make, paint]


@hookimpl
def guidegraph_types() -> list[type]:
    return [Palette]


@hookimpl
def guidegraph_preview(value: Palette, port_type: type) -> Any:
    from PIL import Image as Pictures

    match value.shows:
        case "text":
            return f"{len(value.colours)} colours of a {port_type.__name__}\nfirst {int(value.colours[0])}"
        case "picture":
            file = io.BytesIO()
            Pictures.new("RGB", (4, 4), (int(value.colours[0]), 0, 0)).save(file, "PNG")
            return file.getvalue()
        case "nothing":
            return None
        case "number":
            return 3
        case "long":
            return "x" * 5000
        case "no picture":
            return b"<svg/>"
    raise RuntimeError(f"no way to show {value.shows}")
