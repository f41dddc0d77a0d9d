"""The settings of a training loop, checked where they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from guidegraph.graph.errors import Mark, choices
from guidegraph.graph.ir import Optimised, Source, Training
from guidegraph.graph.node import Port
from guidegraph.graph.parse import ParsedLoop, ParsedTrain
from guidegraph.graph.paths import resolve
from guidegraph.graph.types import port_type

Report: TypeAlias = Callable[[Mark, str, str, str], None]


def _port(name: str, annotation: Any, default: Any = None) -> Port:
    return Port(name, annotation, port_type(annotation), default, setting=True)


def _ports() -> dict[str, Port]:
    from annotated_types import Ge, Gt, Lt

    positive, fraction = Annotated[float, Gt(0)], Annotated[float, Ge(0), Lt(1)]
    return {
        "optimizer": _port("optimizer", Literal["adamw", "adam", "sgd"], "adamw"),
        "lr": _port("lr", positive, 1e-4),
        "ema": _port("ema", fraction | None),
        "start": _port("start", Annotated[int, Ge(0)], 0),
        "betas": _port("betas", list[fraction]),
        "eps": _port("eps", positive),
        "weight_decay": _port("weight_decay", Annotated[float, Ge(0)]),
        "momentum": _port("momentum", fraction),
        "warmup": _port("warmup", Annotated[int, Ge(0)]),
        "schedule": _port("schedule", Literal["constant", "cosine", "linear"]),
        "clip": _port("clip", positive),
    }


def _check(port: Port, mark: Mark, value: Any, where: str, report: Report) -> Any:
    try:
        return port.literal(value)
    except ValueError as error:
        report(mark, "bad-value", f"'{port.name}': {error}", f"{where}.{port.name}")
        return port.default


def optimiser_options(entry: ParsedTrain, loss: Source, where: str, report: Report) -> Optimised:
    """One entry of ``train``: optimizer (adamw, adam, sgd), lr, ema, start, and the optimizer's own options."""
    ports = _ports()
    values: dict[str, Any] = {}
    for name, (mark, value) in entry.options.items():
        if name in ports:
            values[name] = _check(ports[name], mark, value, where, report)
        else:
            report(mark, "unknown-key", f"unknown key '{name}'; {choices(name, ports, 'keys')}", f"{where}.{name}")
    fixed = {name: values.pop(name, ports[name].default) for name in ("optimizer", "lr", "ema", "start")}
    return Optimised(entry.model.text, loss, options=values, mark=entry.mark, **fixed)


def training_options(
    loop: ParsedLoop, models: tuple[Optimised, ...], steps: Source | None, base: Path, report: Report
) -> Training:
    """precision (fp32, bf16, fp16), seed, and checkpoint: path, every, and check (whether it must be this training's)."""
    from annotated_types import Ge

    precision, seed = "fp32", 0
    if loop.precision is not None:
        port = _port("precision", Literal["fp32", "bf16", "fp16"], "fp32")
        precision = _check(port, loop.precision.mark, loop.precision.value, loop.path, report)
    if loop.seed is not None:
        seed = _check(_port("seed", Annotated[int, Ge(0)], 0), loop.seed.mark, loop.seed.value, loop.path, report)
    where = f"{loop.path}.checkpoint"
    ports = {
        "path": _port("path", Path),
        "every": _port("every", Annotated[int, Ge(1)], 500),
        "check": _port("check", bool, True),
    }
    saved = {
        n: _check(ports[n], mark, value, where, report) for n, (mark, value) in loop.checkpoint.items() if n in ports
    }
    path = saved.get("path")
    if loop.checkpoint and path is None:
        mark = next(iter(loop.checkpoint.values()))[0]
        report(mark, "missing-key", "a checkpoint needs its 'path', a folder", where)
    folder = resolve(path, base) if path is not None else None
    options = {"seed": seed, "check": saved.get("check", True)}
    return Training(models, steps, precision, folder, saved.get("every", 500), options)
