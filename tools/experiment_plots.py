"""Draw the figures of docs/understand/experiments.md from the tables of the sweeps.

    python tools/experiment_plots.py runs/experiments docs/pictures

Reads first_stage_kl, first_stage_vq, ldm and sampling in the first folder; missing tables are left out. Lines differ
by their markers and dashes too, so that the figures can be read in black and white.
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

from guidegraph_runtime.files.atomic_write import atomic_path

STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", (0, (5, 1))), ("x", (0, (3, 1, 1, 1))))
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("status", "done") == "done"]


def line(
    axes: Axes, index: int, rows: Rows, x: str, y: str, error: str | tuple[str, str] = "", label: str = ""
) -> None:
    """Rows as a line, with bars: of one standard error, or between two ends."""
    marker, dashes = STYLES[index % len(STYLES)]
    xs, ys = ([float(row[name]) for row in rows] for name in (x, y))
    if isinstance(error, tuple):
        bars: Any = [[abs(float(row[end]) - height) for row, height in zip(rows, ys, strict=True)] for end in error]
    else:
        bars = [float(row[error]) for row in rows] if error else None
    axes.errorbar(xs, ys, yerr=bars, marker=marker, linestyle=dashes, markersize=5, capsize=3, label=label)


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


def by_model(rows: Iterable[dict[str, str]]) -> dict[tuple[str, str], Rows]:
    """The rows of each f and model, by f."""
    tables: dict[tuple[str, str], Rows] = {}
    for row in rows:
        tables.setdefault((row["f"], row["model"]), []).append(row)
    return dict(sorted(tables.items(), key=lambda item: (float(item[0][0]), item[0][1].startswith("pkg:"))))


def first_stages(folder: Path, out: Path) -> None:
    tables = {kind: read(folder / f"first_stage_{kind.lower()}" / "table.csv") for kind in ("KL", "VQ")}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for index, (kind, rows) in enumerate(tables.items()):
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
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.8))
    for index, f in enumerate(values(rows, "f")):
        own = [{**row, "part": str(int(float(row["stage"])) + 1)} for row in rows if row["f"] == f]
        own = [{**row, "trained": str(int(row["part"]) * int(float(row["steps_of_stage"])))} for row in own]
        line(left, index, own, "part", "kid", "kid_error", f"f = {f}")
        line(middle, index, own, "trained", "kid", "kid_error", f"f = {f}")
        line(right, index, own, "part", "objects", ("objects_low", "objects_high"), f"f = {f}")
    for axes in (left, right):
        axes.set_xticks(range(1, 1 + len({row["stage"] for row in rows})))
    finish(left, "Equal compute", "parts of the compute", "KID · 1,000")
    finish(middle, "Equal steps", "training steps", "KID · 1,000", log=True)
    finish(right, "All named objects found", "parts of the compute", "share of pictures")
    save(figure, out / "experiment-ldm.png")


def sampling(folder: Path, out: Path) -> None:
    rows = sorted(read(folder / "sampling" / "table.csv"), key=lambda row: float(row["steps"]))
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, panels = pyplot.subplots(len(samplers), 3, figsize=(14, 3.8 * len(samplers)), squeeze=False)
    for (left, middle, right), sampler in zip(panels, samplers, strict=True):
        for index, ((f, model), own) in enumerate(by_model(row for row in rows if row["sampler"] == sampler).items()):
            label = f"f = {f}, embedded" if model.startswith("pkg:") else f"f = {f}"
            line(left, index, own, "per_second", "kid", "kid_error", label)
            line(middle, index, own, "steps", "kid", "kid_error", label)
            line(right, index, own, "steps", "objects", ("objects_low", "objects_high"), label)
        finish(left, sampler, "pictures a second", "KID · 1,000", log=True)
        finish(middle, sampler, "steps", "KID · 1,000", log=True)
        finish(right, sampler, "steps", "all named objects found", log=True)
        for axes in (left, middle):
            axes.get_legend().remove()
    save(figure, out / "experiment-sampling.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("plots", type=Path)
    arguments = parser.parse_args()
    for needed, draw in (
        ("first_stage_*/table.csv", first_stages),
        ("ldm/tables/table.csv", training),
        ("sampling/table.csv", sampling),
    ):
        if any(arguments.runs.glob(needed)):
            draw(arguments.runs, arguments.plots)


if __name__ == "__main__":
    main()
