"""The settings of a training loop, checked where they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge

from guidegraph.graph import training_precision
from guidegraph.graph.errors import Mark, choices
from guidegraph.graph.ir import Optimised, Source, Training
from guidegraph.graph.literals import literal_value
from guidegraph.graph.node import Port
from guidegraph.graph.parsed import ParsedLoop, ParsedTrain
from guidegraph.graph.types import Written, port_type
from guidegraph.graph.yamltree import Scalar, plain, short

Report: TypeAlias = Callable[[Mark, str, str, str], None]

OWN = {"adamw": ("betas", "eps"), "adam": ("betas", "eps"), "sgd": ("momentum",)}


def _port(name: str, annotation: Any, default: Any = None) -> Port:
    return Port(name, annotation, port_type(annotation), default, setting=True)


CHECKPOINT = _port("path", Annotated[Path, Written()])
PREVIEW_EVERY = _port("every", Annotated[int, Ge(0)])
"""Steps between two previews; 0 for none."""


def _ports() -> dict[str, Port]:
    from annotated_types import Gt, Len, Lt

    positive: Any = Annotated[float, Gt(0)]
    fraction: Any = Annotated[float, Ge(0), Lt(1)]
    return {
        "optimizer": _port("optimizer", Literal["adamw", "adam", "sgd"], "adamw"),
        "lr": _port("lr", positive, 1e-4),
        "ema": _port("ema", fraction | None),
        "start": _port("start", Annotated[int, Ge(0)], 0),
        "betas": _port("betas", Annotated[list[fraction], Len(2, 2)]),
        "eps": _port("eps", Annotated[float, Ge(0)]),
        "weight_decay": _port("weight_decay", Annotated[float, Ge(0)]),
        "momentum": _port("momentum", Annotated[float, Ge(0)]),
        "warmup": _port("warmup", Annotated[int, Ge(0)]),
        "schedule": _port("schedule", Literal["constant", "cosine", "linear"]),
        "clip": _port("clip", positive),
        "ema_warmup": _port("ema_warmup", bool, False),
    }


def _check(port: Port, mark: Mark, value: Any, where: str, report: Report) -> Any:
    """The value where it fits, else the default, with the reason reported at ``where``."""
    try:
        return literal_value(port, value, Path())
    except ValueError as error:
        report(mark, "bad-value", f"'{port.name}': {error}", where)
        return port.default


def optimiser_options(entry: ParsedTrain, loss: Source, where: str, report: Report) -> Optimised:
    """One entry of ``train``: optimizer (adamw, adam, sgd), lr, ema, start, and the optimizer's own options."""
    ports = _ports()
    values: dict[str, Any] = {}
    for name, (key, mark, value) in entry.options.items():
        here = f"{where}.{short(name)}"
        if name in ports:
            values[name] = _check(ports[name], mark, value, here, report)
        else:
            known = ["model", "loss", *ports]
            report(key, "unknown-key", f"unknown key '{short(name)}'; {choices(name[:60], known, 'keys')}", here)
    fixed = {name: values.pop(name, ports[name].default) for name in ("optimizer", "lr", "ema", "start")}
    others = {name for names in OWN.values() for name in names} - {*OWN[fixed["optimizer"]]}
    own = [name for name in ports if name not in others]
    for name in values:
        if name not in own:
            message = f"'{name}' is no option of {fixed['optimizer']}; options: {', '.join(own)}"
            report(entry.options[name][0], "unknown-key", message, f"{where}.{name}")
    return Optimised(entry.model.text, loss, options=values, **fixed)


def linkable_options(optimizer: str) -> dict[str, Port]:
    """The options of an entry of ``train`` that may be parameters: its numbers."""
    numbers = ("lr", "ema", "start", "warmup", "clip", "weight_decay", *(n for n in OWN[optimizer] if n != "betas"))
    ports = _ports()
    return {name: ports[name] for name in numbers}


def with_links(model: Optimised, values: Mapping[Source, Any]) -> Optimised:
    """A trained model with the values of its linked options in their places.

    Raises ``ValueError`` for a value that the option does not take.
    """
    ports, given = linkable_options(model.optimizer), {}
    for name, source in model.linked.items():
        try:
            given[name] = literal_value(ports[name], values[source], Path())
        except ValueError as error:
            raise ValueError(f"'{name}' of '{model.model}': {error}") from None
    own = {name: given.pop(name) for name in ("lr", "ema", "start") if name in given}
    return replace(model, options={**model.options, **given}, linked={}, **own)


def iterations(steps: Scalar, where: str, report: Report) -> int:
    """The number of steps that a literal says."""
    return int(_check(_port("steps", Annotated[int, Ge(0)], 0), steps.mark, steps.value, where, report))


def training_options(
    loop: ParsedLoop, models: tuple[Optimised, ...], steps: Source | None, checkpoint: Source | None, report: Report
) -> Training:
    """precision (auto, fp32, bf16), seed, and of the checkpoint: every, and check (that it is of this training)."""
    precision, seed = training_precision.DEFAULT, 0
    if loop.precision is not None:
        port = _port("precision", training_precision.Asked, training_precision.DEFAULT)
        precision = _check(port, loop.precision.mark, loop.precision.value, f"{loop.path}.precision", report)
    if loop.seed is not None:
        port = _port("seed", Annotated[int, Ge(0)], 0)
        seed = _check(port, loop.seed.mark, loop.seed.value, f"{loop.path}.seed", report)
    where = f"{loop.path}.checkpoint"
    ports = {"every": _port("every", Annotated[int, Ge(1)], 500), "check": _port("check", bool, True)}
    saved = {
        name: _check(ports[name], mark, plain(tree), f"{where}.{name}", report)
        for name, (mark, tree) in loop.checkpoint.items()
        if name in ports
    }
    options = {"seed": seed, "check": saved.get("check", True)}
    return Training(models, steps, precision, checkpoint, saved.get("every", 500), options)
