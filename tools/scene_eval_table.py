"""Print a sweep of evaluate/scene_eval.yaml as Markdown: a row for each cell, a column for each category.

    guidegraph sweep workflows/evaluate/scene_eval.yaml --only scores --grid scale=1,2,4 --out runs/scales
    python tools/scene_eval_table.py runs/scales

Shares of right pictures are in per cent, with the 95 % interval of the overall score.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

OVERALL = "overall"


def read_cells(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each cell, in order, from tables/scores.csv of a sweep."""
    cells: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cells.setdefault(row["cell"], []).append(row)
    return cells


def format_table(cells: list[list[dict[str, str]]]) -> str:
    """The table in Markdown."""
    columns = [*cells[0][0]]
    swept = columns[1 : columns.index("pictures")]  # between the cell and the columns of the output
    categories = [row["category"] for row in cells[0] if row["category"] != OVERALL]
    header = [*swept, *categories, "overall [95 %]"]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(swept)}{' ---: |' * (len(categories) + 1)}"]
    for rows in cells:
        by_category = {row["category"]: row for row in rows}
        shares = [f"{100 * float(by_category[name]['score']):.0f}" for name in categories]
        value, low, high = (100 * float(by_category[OVERALL][name]) for name in ("score", "low", "high"))
        parameters = [rows[0][name].removesuffix(".0") for name in swept]
        lines.append(f"| {' | '.join([*parameters, *shares])} | {value:.1f} [{low:.1f}, {high:.1f}] |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the sweep's folder")
    path = parser.parse_args().sweep / "tables" / "scores.csv"
    if not path.is_file():
        parser.error(f"there is no '{path}': name the folder of a sweep of evaluate/scene_eval.yaml")
    print(format_table(list(read_cells(path).values())))


if __name__ == "__main__":
    main()
