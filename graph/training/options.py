"""Parsing and checking the settings of a training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from annotated_types import Ge

from guidegraph.graph.errors import Mark, suggest
from guidegraph.graph.ir import Source
from guidegraph.graph.language.syntax import ParsedLoop, ParsedTrain
from guidegraph.graph.language.yaml_tree import Scalar, shorten, to_python
from guidegraph.graph.literals import convert_literal
from guidegraph.graph.node import Port
from guidegraph.graph.training import precision as training_precision
from guidegraph.graph.training.fit import OptimisedModel, Training
from guidegraph.graph.training.option_ports import OWN_OPTIONS, linkable_options, make_port, optimiser_ports

Report: TypeAlias = Callable[[Mark, str, str, str], None]


def _check_option(port: Port, mark: Mark, value: Any, location: str, report: Report) -> Any:
    """The value if it is valid, else the default, with the error reported at ``location``."""
    try:
        return convert_literal(port, value, Path())
    except ValueError as error:
        report(mark, "bad-value", f"'{port.name}': {error}", location)
        return port.default


def parse_optimiser_options(entry: ParsedTrain, loss: Source, location: str, report: Report) -> OptimisedModel:
    """Parse an entry of ``train``: optimizer (adamw, adam, sgd), lr, ema, start, and the optimizer's own options."""
    ports = optimiser_ports()
    values: dict[str, Any] = {}
    for name, (key, mark, value) in entry.options.items():
        option_location = f"{location}.{shorten(name)}"
        if name in ports:
            values[name] = _check_option(ports[name], mark, value, option_location, report)
        else:
            allowed_keys = ["model", "loss", *ports]
            report(
                key,
                "unknown-key",
                f"unknown key '{shorten(name)}'; {suggest(name[:60], allowed_keys, 'keys')}",
                option_location,
            )
    common_options = {name: values.pop(name, ports[name].default) for name in ("optimizer", "lr", "ema", "start")}
    foreign_options = {name for names in OWN_OPTIONS.values() for name in names} - {
        *OWN_OPTIONS[common_options["optimizer"]]
    }
    allowed_options = [name for name in ports if name not in foreign_options]
    for name in values:
        if name not in allowed_options:
            message = f"'{name}' is no option of {common_options['optimizer']}; options: {', '.join(allowed_options)}"
            report(entry.options[name][0], "unknown-key", message, f"{location}.{name}")
    return OptimisedModel(entry.model.text, loss, options=values, **common_options)


def apply_links(model: OptimisedModel, values: Mapping[Source, Any]) -> OptimisedModel:
    """A model to train with its linked options replaced by their values.

    Raises ``ValueError`` for a value that is not valid for the option.
    """
    ports, linked = linkable_options(model.optimizer), {}
    for name, source in model.linked.items():
        try:
            linked[name] = convert_literal(ports[name], values[source], Path())
        except ValueError as error:
            raise ValueError(f"'{name}' of '{model.model}': {error}") from None
    common_options = {name: linked.pop(name) for name in ("lr", "ema", "start") if name in linked}
    return replace(model, options={**model.options, **linked}, linked={}, **common_options)


def parse_steps(steps: Scalar, location: str, report: Report) -> int:
    """Parse a literal number of steps."""
    return int(_check_option(make_port("steps", Annotated[int, Ge(0)], 0), steps.mark, steps.value, location, report))


def parse_training_options(
    loop: ParsedLoop,
    models: tuple[OptimisedModel, ...],
    steps: Source | None,
    checkpoint: Source | None,
    report: Report,
) -> Training:
    """Parse precision (auto, fp32, bf16), seed, and the checkpoint's ``every`` and ``check`` (of its key)."""
    precision, seed = training_precision.DEFAULT_PRECISION, 0
    if loop.precision is not None:
        port = make_port("precision", training_precision.PrecisionSetting, training_precision.DEFAULT_PRECISION)
        precision = _check_option(port, loop.precision.mark, loop.precision.value, f"{loop.path}.precision", report)
    if loop.seed is not None:
        port = make_port("seed", Annotated[int, Ge(0)], 0)
        seed = _check_option(port, loop.seed.mark, loop.seed.value, f"{loop.path}.seed", report)
    location = f"{loop.path}.checkpoint"
    ports = {"every": make_port("every", Annotated[int, Ge(1)], 500), "check": make_port("check", bool, True)}
    checkpoint_options = {
        name: _check_option(ports[name], mark, to_python(tree), f"{location}.{name}", report)
        for name, (mark, tree) in loop.checkpoint.items()
        if name in ports
    }
    options = {"seed": seed, "check": checkpoint_options.get("check", True)}
    return Training(models, steps, precision, checkpoint, checkpoint_options.get("every", 500), options)
