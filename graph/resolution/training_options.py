"""Resolution of a training loop's options: its models with their losses, number of steps and checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from annotated_types import Ge

from guidegraph.graph.errors import Mark, suggest
from guidegraph.graph.ir import GraphOutput, Loop, Op, walk_calls
from guidegraph.graph.language.syntax import ParsedTrain, ParsedTraining
from guidegraph.graph.language.yaml_tree import Scalar, Tree, shorten, to_python
from guidegraph.graph.literals import convert_literal
from guidegraph.graph.port import Port
from guidegraph.graph.resolution.block_resolver import BlockContext, BlockResolver
from guidegraph.graph.resolution.link_rule import can_link
from guidegraph.graph.resolution.loops import LoopParts, make_plain_loop, resolve_loop
from guidegraph.graph.resolution.scope import INT, ResolvedNode, Scope
from guidegraph.graph.sources import Carry, Literal, Param, Source
from guidegraph.graph.training import precision as training_precision
from guidegraph.graph.training.fit import Fit, OptimisedModel, Preview, Training
from guidegraph.graph.training.options import (
    CHECKPOINT,
    CHECKPOINT_EVERY,
    OWN_OPTIONS,
    PREVIEW_EVERY,
    linkable_options,
    make_port,
    optimiser_ports,
)
from guidegraph.graph.types import PortType, Tensor

Report: TypeAlias = Callable[[Mark, str, str, str], None]


def resolve_training_loop(
    resolver: BlockResolver, loop: ParsedTraining, scope: Scope, key: str, block: BlockContext
) -> tuple[dict[str, Op], ResolvedNode]:
    """Resolve a training loop to one operation; a plain loop if ``train`` is missing, which was reported."""

    def finish(inner: Scope, body: Mapping[str, Op]) -> Callable[[LoopParts], Loop]:
        if not loop.train:
            return make_plain_loop
        training = _resolve_training(resolver, loop, scope, inner, block, body)
        preview = _resolve_preview(resolver, loop, inner, key, block)
        return lambda parts: Fit(*parts, training, preview)

    return resolve_loop(resolver, loop, scope, key, block, finish)


def _resolve_preview(
    resolver: BlockResolver, loop: ParsedTraining, inner: Scope, key: str, block: BlockContext
) -> Preview | None:
    """Resolve a loop's preview; None if there is none or it is invalid.

    It may link to the loop's carries and index, to parameters and to nodes outside, but not to values of one iteration.
    """
    if loop.preview is None:
        return None
    assert inner.parent is not None
    scope = Scope(inner.params, inner.broken_params, parent=inner.parent, loop=key)
    scope.unread, scope.carry = inner.unread, inner.carry
    node = loop.preview.node
    for link in node.links():
        head = link.text.partition(".")[0]
        if head in inner.names or (inner.item and link.text.startswith(f"loop.{inner.item}")):
            message = (
                f"a preview is not part of an iteration and cannot read '{link.text:.60}'; "
                f"{suggest(link.text[:60], [*(f'carry.{name}' for name in inner.carry), 'loop.index'], 'links')}"
            )
            resolver.report(link.mark, "unknown-link", message, node.path)
            return None
    every = _resolve_option(resolver, PREVIEW_EVERY, loop.preview.every, scope, block, f"{node.path}.every")
    ops, entry = resolver.resolve_operation(
        node, scope, f"{key}.preview", replace(block, loop_depth=block.loop_depth + 1)
    )
    if entry.broken or every is None:
        return None
    outputs = {name: GraphOutput(output.source, output.type, node.mark) for name, output in entry.outputs.items()}
    return Preview(every, ops, outputs)


def _resolve_training(
    resolver: BlockResolver,
    loop: ParsedTraining,
    scope: Scope,
    inner: Scope,
    block: BlockContext,
    body: Mapping[str, Op],
) -> Training:
    """Resolve a training loop's options. scope: around the loop; inner: of its body."""
    _warn_of_equal_draws(loop, body)
    models: list[OptimisedModel] = []
    seen: set[str] = set()
    for i, entry in enumerate(loop.train):
        path, name = f"{loop.path}.train.{i}", entry.model.text
        if name not in loop.carry and "carry" not in loop.unread:
            message = f"'{name:.60}' is not carried; {suggest(name[:60], loop.carry, 'carries')}"
            resolver.report(entry.model.mark, "unknown-carry", message, f"{path}.model")
        if name in seen:
            resolver.report(
                entry.model.mark, "given-twice", f"'{name}' is trained twice; keep one entry", f"{path}.model"
            )
        seen.add(name)
        loss_source = resolver.find_source(entry.loss, inner, f"{path}.loss")
        if loss_source and not can_link(loss_source.type, PortType((Tensor,))):
            message = f"a loss is a tensor, '{entry.loss.text}' gives {loss_source.type}"
            resolver.report(entry.loss.mark, "type-mismatch", message, f"{path}.loss")
        links = {
            option: (key, mark, value)
            for option, (key, mark, value) in entry.options.items()
            if isinstance(value, str) and value.startswith("params.")
        }
        for option in links:
            del entry.options[option]
        loss: Source = loss_source.source if loss_source else Carry("", name)
        model = _parse_optimiser_options(entry, loss, path, resolver.report)
        models.append(replace(model, linked=_link_options(resolver, model, links, scope, path)))
    steps = _resolve_steps(resolver, loop, scope)
    folder = loop.checkpoint["path"][1] if "path" in loop.checkpoint else None
    checkpoint = _resolve_option(resolver, CHECKPOINT, folder, scope, block, f"{loop.path}.checkpoint.path")
    return _parse_training_options(loop, tuple(models), steps, checkpoint, resolver.report)


def _warn_of_equal_draws(loop: ParsedTraining, body: Mapping[str, Op]) -> None:
    """Warn of nodes in a training loop's file that draw by ``seed`` and ``index`` without an index.

    They draw the same numbers at every step, and a training on those gives no error. Seeds that may differ from step to
    step are let through.
    """
    for call in walk_calls(body, previews=False):
        if call.mark.file != loop.mark.file or call.argument("index") is not None:
            continue
        has_index, seed = "index" in call.spec.inputs, call.argument("seed")
        if has_index and "seed" in call.spec.settings and (seed is None or isinstance(seed, (Literal, Param))):
            warnings.warn(
                f"{call.mark}: {call.spec.id} draws the same numbers at every step of the training: link its port "
                "'index', in: {index: loop.index}, or move it before the loop to draw once on purpose "
                f"[nodes.{call.key}]",
                stacklevel=2,
            )


def _link_options(
    resolver: BlockResolver, model: OptimisedModel, links: Mapping[str, tuple[Mark, Mark, Any]], scope: Scope, path: str
) -> dict[str, Source]:
    """The sources of a trained model's options that are links to parameters."""
    ports, sources = linkable_options(model.optimizer), {}
    for option, (key, mark, text) in links.items():
        option_path = f"{path}.{shorten(option)}"
        if option not in ports:
            message = f"'{shorten(option)}' takes no link, found '{text:.60}'; {suggest(option[:60], ports, 'links')}"
            resolver.report(key, "bad-value", message, option_path)
            continue
        tree = Scalar(text, True, mark)
        typed = resolver.find_source(tree, scope, option_path)
        connected = resolver.connect_source(typed, ports[option], tree, scope, option_path) if typed else None
        if connected:
            sources[option] = connected[0]
    return sources


def _resolve_steps(resolver: BlockResolver, loop: ParsedTraining, scope: Scope) -> Source | None:
    """The number of steps of a training loop: a literal or a link; None for one pass over its items."""
    if loop.steps is None:
        return None
    path = f"{loop.path}.steps"
    if not isinstance(loop.steps.value, str) and scope.find_node(loop.steps.text) is None:
        port = make_port("steps", Annotated[int, Ge(0)], 0)
        return Literal(int(_check_option(port, loop.steps.mark, loop.steps.value, path, resolver.report)))
    typed = resolver.find_source(loop.steps, scope, path)
    if typed and not can_link(typed.type, INT):
        message = f"'{loop.steps.text}' gives {typed.type}, 'steps' takes int"
        resolver.report(loop.steps.mark, "type-mismatch", message, path)
    elif typed:
        resolver.check_count(typed.source, loop.steps, path, steps=True)
    return typed.source if typed else None


def _resolve_option(
    resolver: BlockResolver, port: Port, tree: Tree | None, scope: Scope, block: BlockContext, path: str
) -> Source | None:
    """The value of an option of a training loop: a literal, or a link to a parameter."""
    if isinstance(tree, Scalar) and tree.plain and tree.text.startswith("params."):
        typed = resolver.find_source(tree, scope, path)
        connected = resolver.connect_source(typed, port, tree, scope, path) if typed else None
        return connected[0] if connected else None
    return resolver.resolve_literal(port, tree, block.base, scope, path)


def _check_option(port: Port, mark: Mark, value: Any, location: str, report: Report) -> Any:
    """The value if it is valid, else the default, with the error reported at ``location``."""
    try:
        return convert_literal(port, value, Path())
    except ValueError as error:
        report(mark, "bad-value", f"'{port.name}': {error}", location)
        return port.default


def _parse_optimiser_options(entry: ParsedTrain, loss: Source, location: str, report: Report) -> OptimisedModel:
    """Parse an entry of ``train``: the optimizer, lr, ema, start, and the optimizer's own options."""
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
            listing = ", ".join(allowed_options)
            message = f"'{name}' is not an option of {common_options['optimizer']}; options: {listing}"
            report(entry.options[name][0], "unknown-key", message, f"{location}.{name}")
    return OptimisedModel(entry.model.text, loss, entry.loss.text, options=values, **common_options)


def _parse_training_options(
    loop: ParsedTraining,
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
    ports = {
        "every": make_port("every", Annotated[int, Ge(1)], CHECKPOINT_EVERY),
        "check": make_port("check", bool, True),
    }
    checkpoint_options = {name: port.default for name, port in ports.items()} | {
        name: _check_option(ports[name], mark, to_python(tree), f"{location}.{name}", report)
        for name, (mark, tree) in loop.checkpoint.items()
        if name in ports
    }
    options = {"seed": seed, "check": checkpoint_options["check"]}
    return Training(models, steps, precision, checkpoint, checkpoint_options["every"], options)
