"""The files of pictures and tables: they come in through the hook that any plugin uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import UnwritableOutput
from guidegraph.graph.late import torch
from guidegraph.graph.output_format import OutputFormat
from guidegraph.nodes.table import Table
from guidegraph.nodes.tensor_types import Image
from guidegraph_runtime.output_formats import pixels, plain_numbers
from guidegraph_runtime.pictures.png import encode_png


def list_formats() -> list[OutputFormat]:
    """The formats of the built-in types: PNG of a picture, JSON and Markdown of a table."""
    return [
        OutputFormat(Image, ".png", write_picture, seconds=None),
        OutputFormat(Table, ".json", write_table, seconds=None),
        OutputFormat(Table, ".md", write_markdown, seconds=None),
    ]


def write_picture(picture: Any, path: Path) -> None:
    """Write a picture (3, H, W) in [-1, 1] as a PNG. Raises ``UnwritableOutput`` if a value is not finite."""
    path.write_bytes(encode_png(to_pixels(picture)))


def to_pixels(picture: Any) -> Any:
    """Convert a picture (3, H, W) in [-1, 1] to uint8 (H, W, 3).

    Raises ``UnwritableOutput`` if a value is not finite.
    """
    if not picture.is_floating_point():
        raise UnwritableOutput(f"is an image of {picture.dtype}: floats in [-1, 1] are expected")
    exact = picture.detach().to("cpu", torch.float64 if picture.dtype == torch.float64 else torch.float32)
    try:
        return pixels(exact.numpy())
    except ValueError as error:
        is_half = picture.element_size() < 4
        hint = "or try --dtype float32" if is_half else "and at the weights of the models"
        raise UnwritableOutput(f"{error}, {hint}") from None


def write_markdown(table: Table, path: Path) -> None:
    """Write a table as Markdown."""
    path.write_text(table.markdown() + "\n", encoding="utf-8")


def write_table(table: Table, path: Path) -> None:
    """Write a table as JSON: a list for each column. Numbers that JSON lacks become "NaN", "Infinity", "-Infinity"."""
    columns = {name: plain_numbers(list(column)) for name, column in table.items()}
    path.write_text(json.dumps(columns, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
