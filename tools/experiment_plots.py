"""Draw the figures of docs/experiments.md from what the sweeps wrote.

    python tools/experiment_plots.py runs/experiments docs/plots

Reads first-kl, first-vq, ldm and sampling in the first folder; what is not there is left out. Lines differ by their
markers and dashes too, so that the figures can be read in black and white.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from guidegraph_runtime.files import atomic_path

STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", (0, (5, 1))))
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("status", "done") == "done"]


def line(
    axes: Axes,
    index: int,
    rows: Rows,
    x: str,
    y: str,
    error: str | tuple[str, str] = "",
    label: str = "",
    text: str = "",
) -> None:
    """Rows as a line, with bars: of one standard error, or between two ends; `text` stands beside each point."""
    marker, dashes = STYLES[index % len(STYLES)]
    xs, ys = ([float(row[name]) for row in rows] for name in (x, y))
    if isinstance(error, tuple):
        bars: Any = [[abs(float(row[end]) - at) for row, at in zip(rows, ys, strict=True)] for end in error]
    else:
        bars = [float(row[error]) for row in rows] if error else None
    axes.errorbar(xs, ys, yerr=bars, marker=marker, linestyle=dashes, markersize=5, capsize=3, label=label)
    for row, at_x, at_y in zip(rows, xs, ys, strict=True) if text else ():
        axes.annotate(row[text], (at_x, at_y), xytext=(4, 4), textcoords="offset points", fontsize=7)


def finish(axes: Axes, title: str, x: str, y: str, log: bool = False) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.grid(alpha=0.3)
    axes.legend()


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)
    print(f"wrote {path}")


def values(rows: Rows, name: str) -> Iterable[str]:
    return sorted({row[name] for row in rows}, key=float)


def first_stages(folder: Path, out: Path) -> None:
    found = {kind: read(folder / f"first-{kind.lower()}" / "table.csv") for kind in ("KL", "VQ")}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for index, (kind, rows) in enumerate(found.items()):
        if not rows:
            continue
        ordered = sorted(rows, key=lambda row: float(row["f"]))
        line(left, index, ordered, "f", "table.psnr", "table.psnr_error", kind)
        line(right, index, ordered, "f", "table.kid", "table.kid_error", kind)
    finish(left, "What comes back", "f", "PSNR in dB", log=True)
    finish(right, "Closeness to real scenes", "f", "KID · 1,000", log=True)
    save(figure, out / "experiment-first-stages.png")


def training(folder: Path, out: Path) -> None:
    rows = read(folder / "ldm" / "tables" / "table.csv")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for index, f in enumerate(values(rows, "f")):
        own = [{**row, "part": str(int(float(row["stage"])) + 1)} for row in rows if row["f"] == f]
        line(left, index, own, "part", "kid", "kid_error", f"f = {f}")
        line(right, index, own, "part", "objects", ("objects_low", "objects_high"), f"f = {f}")
    for axes in (left, right):
        axes.set_xticks(range(1, 1 + len({row["stage"] for row in rows})))
    finish(left, "Closeness to real scenes", "parts of the compute", "KID · 1,000")
    finish(right, "All named objects found", "parts of the compute", "share of pictures")
    save(figure, out / "experiment-ldm.png")


def sampling(folder: Path, out: Path) -> None:
    rows = read(folder / "sampling" / "table.csv")
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, panels = pyplot.subplots(1, len(samplers), figsize=(4.5 * len(samplers), 3.6), sharey=True, squeeze=False)
    for axes, sampler in zip(panels[0], samplers, strict=True):
        for index, f in enumerate(values(rows, "f")):
            own = [row for row in rows if row["f"] == f and row["sampler"] == sampler]
            own.sort(key=lambda row: float(row["steps"]))
            line(axes, index, own, "per_second", "kid", "kid_error", f"f = {f}", text="steps")
        finish(axes, sampler, "pictures a second", "KID · 1,000", log=True)
    save(figure, out / "experiment-sampling.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("plots", type=Path)
    arguments = parser.parse_args()
    for needed, draw in (
        ("first-*/table.csv", first_stages),
        ("ldm/tables/table.csv", training),
        ("sampling/table.csv", sampling),
    ):
        if any(arguments.runs.glob(needed)):
            draw(arguments.runs, arguments.plots)


if __name__ == "__main__":
    main()
