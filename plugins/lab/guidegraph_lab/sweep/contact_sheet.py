"""The contact sheet of a sweep: one picture a cell, rows and columns by the swept parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.nodes.table import CellValue
from guidegraph_lab.sweep.cells import Cell
from guidegraph_lab.sweep.grid import Grid
from guidegraph_lab.sweep.table import Row, to_cell_values
from guidegraph_runtime.files.atomic_write import atomic_path
from guidegraph_runtime.printing import visible

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SHEET = "sheet.png"
MOST = 300
"""The maximum number of pictures on a sheet."""
_COLUMNS = 20
_SMALLEST, _LARGEST = 64, 192
_TEXT, _GAP, _LABEL = 12, 4, 160
DAMAGED = (OSError, ValueError, SyntaxError)
"""What Pillow raises for a damaged picture."""
_INK, _PAPER, _EMPTY = "black", "white", "#dddddd"


@dataclass(frozen=True)
class SheetLayout:
    """The grid index of the cell at each position, with labels of rows and columns or a caption for each picture."""

    cells: list[list[int]]
    rows: list[str]
    columns: list[str]
    captions: list[str]
    left_out: int


def write_sheet(folder: Path, grid: Grid, cells: Sequence[Cell], rows: Sequence[Row | None]) -> None:
    """Write the sheet: the first picture of the first output with pictures, for each cell.

    rows: how each cell ended, None if it did not run. If no cell has a picture, the sheet is removed.
    """
    output = next((name for row in rows if row is not None for name in row.outputs.pictures), None)
    if output is None:
        (folder / SHEET).unlink(missing_ok=True)
        return
    files = [row.pictures()[output][0] if row is not None and output in row.outputs.pictures else None for row in rows]
    states = ["not run" if row is None else row.outcome.status for row in rows]
    with atomic_path(folder / SHEET) as temporary:
        _draw(folder, layout(grid, [to_cell_values(cell.swept) for cell in cells]), files, states).save(temporary)


def layout(grid: Grid, points: Sequence[dict[str, CellValue]]) -> SheetLayout:
    """Lay out the cells. The last axis with several values runs along the rows; a single axis is wrapped into lines."""
    varied = [i for i, axis in enumerate(grid.axes) if len(axis.rows) > 1]
    across = len(grid.axes[varied[-1]].rows) if varied else 1
    down = len(grid) // across
    if down == 1:
        count = min(across, MOST)
        width = min(_COLUMNS, math.ceil(math.sqrt(count)))
        lines = [list(range(i, min(i + width, count))) for i in range(0, count, width)]
        names = grid.axes[varied[-1]].names if varied else grid.names
        return SheetLayout(lines, [], [], [_label(points[i], names) for i in range(count)], across - count)
    width = min(across, _COLUMNS)
    height = min(down, max(1, MOST // width))
    cells = [[row * across + column for column in range(width)] for row in range(height)]
    names = grid.axes[varied[-1]].names
    row_names = [name for i in varied[:-1] for name in grid.axes[i].names]
    rows = [_label(points[line[0]], row_names) for line in cells]
    return SheetLayout(cells, rows, [_label(points[i], names) for i in cells[0]], [], len(grid) - width * height)


def _label(point: dict[str, CellValue], names: Sequence[str]) -> str:
    def format_entry(value: CellValue) -> str:
        return f"{value:g}" if isinstance(value, float) else visible(" ".join(str(value).split()))

    return ", ".join(f"{visible(name)}={format_entry(point[name])}" for name in names)


def _draw(folder: Path, plan: SheetLayout, files: Sequence[str | None], states: Sequence[str]) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    side = _side(folder, files)
    font = ImageFont.load_default(_TEXT)
    line = _TEXT + _GAP
    wide = math.ceil(min(_LABEL, max((font.getlength(label) for label in plan.rows), default=0)))
    left = wide + 2 * _GAP if plan.rows else _GAP
    head = line + _GAP if plan.columns else _GAP
    step = (side + _GAP, side + _GAP + (line if plan.captions else 0))
    foot = line + _GAP if plan.left_out else 0
    width = left + max(map(len, plan.cells)) * step[0]
    sheet = Image.new("RGB", (width, head + len(plan.cells) * step[1] + foot), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(plan.columns):
        _write(pen, font, (left + column * step[0], _GAP), label, side, 1)
    for r, cells in enumerate(plan.cells):
        y = head + r * step[1]
        if plan.rows:
            _write(pen, font, (_GAP, y), plan.rows[r], wide, max(1, side // line))
        for c, i in enumerate(cells):
            x = left + c * step[0]
            state = states[i]
            try:
                picture = _picture(folder / file, side) if (file := files[i]) is not None else None
            except DAMAGED:
                picture, state = None, "damaged"
            if picture is not None:
                sheet.paste(picture, (x, y))
            else:
                pen.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY)
                _write(pen, font, (x + _GAP, y + _GAP), state, side - 2 * _GAP, 1)
            if plan.captions:
                _write(pen, font, (x, y + side + 1), plan.captions[i], side, 1)
    if plan.left_out:
        text = f"{plan.left_out} more pictures are not shown"
        _write(pen, font, (_GAP, sheet.height - line), text, width - 2 * _GAP, 1)
    return sheet


def _side(folder: Path, files: Sequence[str | None]) -> int:
    """The side of a picture on the sheet: its own, clamped to the smallest and the largest."""
    from PIL import Image

    for file in files:
        if file is not None:
            with suppress(*DAMAGED), Image.open(folder / file) as image:
                return max(_SMALLEST, min(_LARGEST, max(image.size)))
    return _SMALLEST


def _picture(path: Path, side: int) -> Image.Image:
    """A picture resized to fit a square tile."""
    from PIL import Image

    with Image.open(path) as image:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    tile = Image.new("RGB", (side, side), _PAPER)
    tile.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile


def _write(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    position: tuple[int, int],
    text: str,
    width: int,
    lines: int,
) -> None:
    """Write text in at most ``lines`` lines of a width; longer text ends in an ellipsis."""
    lines_ = [""]
    for character in text:
        if pen.textlength(lines_[-1] + character, font=font) > width:
            lines_.append("")
        lines_[-1] += character
    if len(lines_) > lines:
        lines_ = [*lines_[: lines - 1], lines_[lines - 1][:-1] + "…"]
    for i, line in enumerate(lines_):
        pen.text((position[0], position[1] + i * (_TEXT + _GAP)), line.strip(), fill=_INK, font=font)
