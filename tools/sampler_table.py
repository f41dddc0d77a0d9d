"""Print the measurements of the samplers' tests as Markdown: grids, differences from diffusers, orders of convergence.

    python tools/sampler_table.py

Needs the extra `test`. The comparisons are those of test_scheduler_parity.py, test_scheduler_order.py,
test_flow_parity.py and test_flow.py in tests/nodes/sampling.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.table import CellValue, Table
from tests.nodes.sampling import flow_parity
from tests.nodes.sampling.closed_form import scaled_linear
from tests.nodes.sampling.mixture import flow_error
from tests.nodes.sampling.parity import SIGMAS, SPACINGS, Case, cases
from tests.nodes.sampling.test_flow import ORDERS as FLOW_ORDERS
from tests.nodes.sampling.test_scheduler_order import ORDERS, error

COUNTS = (10, 20, 40, 80, 160, 320)
GRID_STEPS = 10
FAMILIES: dict[str, Callable[..., Sampler]] = {
    "ddim, ddpm, pndm": samplers.ddim,
    "euler, euler_ancestral, heun, edm, dpm2, dpm2_ancestral, lms, dpmpp_sde, dpmpp_2s_ancestral": samplers.euler,
    "dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_2s, unipc, deis": samplers.dpmpp_2m,
}


def parity() -> Table:
    """A row for each sampler and its settings: the largest differences over the grids that are compared."""
    rows: list[dict[str, CellValue]] = []
    for (name, settings, reference), group in groupby(cases(), key=_of_one_sampler):
        alike = list(group)
        results = [case.compare() for case in alike]
        shifts: dict[bool, list[float]] = {True: [], False: []}
        for case, result in zip(alike, results, strict=True):
            shifts[case.grid.endswith(SIGMAS[1:])].append(result.grid)
        rows.append(
            {
                "sampler": f"`{name}`{f', {settings}' if settings else ''}",
                "diffusers'": reference,
                "grids": len(alike),
                "largest Δt": f"{max(shifts[False]):.1g}" if shifts[False] else None,
                "Δt on σ grids": f"{max(shifts[True]):.1g}" if shifts[True] else None,
                "largest Δx / max abs x": f"{max(d.sample for d in results):.1e}",
            }
        )
    return table(rows)


def flow_differences() -> Table:
    """A row for each sampler on flow schedules and its settings: the largest differences over the shifts."""
    rows: list[dict[str, CellValue]] = []
    ordered = sorted(flow_parity.cases(), key=lambda case: (*_of_one_sampler(case), case.grid.split(",")[0]))
    for (name, settings, reference, grid), group in groupby(
        ordered, key=lambda case: (*_of_one_sampler(case), case.grid.split(",")[0])
    ):
        results = [case.compare() for case in group]
        rows.append(
            {
                "sampler": f"`{name}`{f', {settings}' if settings else ''}",
                "diffusers'": reference,
                "σ": grid,
                "shifts": len(results),
                "largest Δt": f"{max(d.grid for d in results):.1g}",
                "largest Δx / max abs x": f"{max(d.sample for d in results):.1e}",
            }
        )
    return table(rows)


def _of_one_sampler(case: Case) -> tuple[str, str, str]:
    return case.sampler, ", ".join(f"{k} {v}" for k, v in case.settings.items()), case.reference


def grids() -> Table:
    """The timesteps of each family of samplers by spacing and σ, GRID_STEPS steps."""
    rows: list[dict[str, CellValue]] = []
    for family, node in FAMILIES.items():
        kinds = [(spacing, "schedule") for spacing in SPACINGS] + [("linspace", sigmas) for sigmas in SIGMAS[1:]]
        for spacing, sigmas in kinds:
            steps = node(scaled_linear(), steps=GRID_STEPS, spacing=spacing, sigmas=sigmas).steps.tolist()
            shown = ", ".join(f"{t:.4g}" for t in steps)
            rows.append({"samplers": family, "spacing": spacing, "sigmas": sigmas, "timesteps": shown})
    return table(rows)


def orders(cases: Sequence[tuple[str, dict[str, Any], float]], measure: Callable[..., float]) -> Table:
    """A row for each ODE solver: its largest error over 64 samples, and its order.

    The order is log₂ of the factor by which twice the steps reduce the error.
    """
    rows: list[dict[str, CellValue]] = []
    for name, settings, _ in cases:
        errors = [measure(name, steps, settings) for steps in COUNTS]
        fitted = -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
        rows.append(
            {
                "solver": f"`{name}`{', ' if settings else ''}{', '.join(f'{k} {v}' for k, v in settings.items())}",
                **{f"{steps} steps": f"{e:.1e}" for steps, e in zip(COUNTS, errors, strict=True)},
                "order at each doubling": ", ".join(f"{math.log2(a / b):.2f}" for a, b in pairwise(errors)),
                "order": f"{fitted:.2f}",
            }
        )
    return table(rows)


def table(rows: list[dict[str, CellValue]]) -> Table:
    return Table({name: [row[name] for row in rows] for name in rows[0]})


def versions() -> str:
    results = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("guidegraph", "diffusers", "torch", "numpy")
    )
    return f"Python {platform.python_version()}, {results}; float64 on the CPU"


def sections() -> Iterator[str]:
    yield versions()
    yield f"### Grids: timesteps of {GRID_STEPS} steps\n\n{grids().markdown()}"
    yield f"### Differences from diffusers\n\n{parity().markdown()}"
    yield f"### Flow matching: differences from diffusers\n\n{flow_differences().markdown()}"
    yield f"### Flow matching: orders of convergence\n\n{orders(FLOW_ORDERS, flow_error).markdown()}"
    yield f"### Orders of convergence\n\n{orders([*ORDERS, ('unipc', {'order': 3}, 0.0)], error).markdown()}"


def main() -> None:
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for section in sections():
        print(f"{section}\n")


if __name__ == "__main__":
    main()
