"""``Fit``, the training loop in a validated graph, and what belongs to it: its trained models and its preview."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from guidegraph.graph.ir import Block, GraphOutput, Loop, Op
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Literal, Source, map_links
from guidegraph.graph.training.options import CHECKPOINT, PREVIEW_EVERY, linkable_options


@dataclass(frozen=True)
class OptimisedModel:
    """One model trained by a training loop (an entry of ``train``).

    ``loss_name``: the link to the loss, as the workflow writes it. ``linked``: sources of the numeric fields that are
    set by parameters; their values replace the fields in the run.
    """

    model: str
    loss: Source
    loss_name: str
    optimizer: str
    lr: float
    ema: float | None
    start: int
    options: Mapping[str, Any]
    linked: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """The options of a training loop: models, number of steps, precision and checkpoint.

    ``steps`` and ``checkpoint`` (a folder) are literals or parameters; ``every``: steps between checkpoints.
    """

    models: tuple[OptimisedModel, ...]
    steps: Source | None
    precision: str
    checkpoint: Source | None
    every: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preview:
    """The preview of a training loop: operations on its carries, run once per ``every`` steps, and their outputs.

    ``every`` is a literal or a parameter.
    """

    every: Source
    ops: Mapping[str, Op]
    outputs: Mapping[str, GraphOutput]

    @property
    def block(self) -> Block:
        return Block(self.ops, tuple(output.source for output in self.outputs.values()))


@dataclass(frozen=True)
class Fit(Loop):
    """A training loop: its body yields losses, and each iteration updates the carries that are trained models."""

    training: Training
    preview: Preview | None = None

    kind: ClassVar[str] = "training"
    can_stop: ClassVar[bool] = False
    """A training has checkpoints of its own."""
    excluded_passes: ClassVar[frozenset[str]] = frozenset({"batch", "precompute"})

    @property
    def steps(self) -> Source | None:
        return self.training.steps

    def extra_results(self) -> Mapping[str, Source]:
        return {f"loss of {model.model}": model.loss for model in self.training.models}

    def folders(self) -> Mapping[str, tuple[Source, Port]]:
        return {} if self.training.checkpoint is None else {"checkpoint": (self.training.checkpoint, CHECKPOINT)}

    def option_sources(self) -> Iterator[Source]:
        yield from (source for source in (self.training.steps, self.training.checkpoint) if source is not None)
        yield from (source for model in self.training.models for source in model.linked.values())
        if self.preview:
            yield self.preview.every
            yield from self.preview.block.outer_sources(self.key)

    def preview_outputs(self) -> Mapping[str, GraphOutput]:
        """The outputs of its preview by name."""
        return self.preview.outputs if self.preview else {}

    def option_ports(self) -> Iterator[tuple[str, Source, Port]]:
        if self.preview:
            yield f"'every' of the preview of loop nodes.{self.key}", self.preview.every, PREVIEW_EVERY
        for model in self.training.models:
            ports = linkable_options(model.optimizer)
            for option, source in model.linked.items():
                description = f"'{option}' of '{model.model}', trained by loop nodes.{self.key}"
                yield description, source, ports[option]

    def digest_parts(self) -> Iterator[tuple[str, Source | str]]:
        # Whether the key is checked is not part of the key. Earlier versions digested it, and its default was true.
        yield "options", Literal({**self.training.options, "check": True})
        for model in self.training.models:
            plain = [model.model, model.optimizer, model.lr, model.ema, model.start, dict(model.options)]
            yield f"train {model.model}", Literal(plain)
            yield f"loss {model.model}", model.loss
            yield from ((f"{name} of {model.model}", source) for name, source in model.linked.items())
        yield "precision", self.training.precision
        if self.training.steps is not None:
            yield "steps", self.training.steps

    def blocks(self) -> tuple[Block, ...]:
        return (self.block, self.preview.block) if self.preview else (self.block,)

    def with_blocks(self, *ops: Mapping[str, Op]) -> Self:
        preview = replace(self.preview, ops=ops[1]) if self.preview else None
        return replace(self, body=ops[0], preview=preview)

    def map_sources(self, change: Callable[[Source], Source], change_op: Callable[[Op], Op]) -> Self:
        preview = self.preview and _map_preview(self.preview, change, change_op)
        training = _map_training(self.training, change)
        return replace(super().map_sources(change, change_op), training=training, preview=preview)


def _map_training(training: Training, change: Callable[[Source], Source]) -> Training:
    models = tuple(
        replace(model, loss=change(model.loss), linked=map_links(model.linked, change)) for model in training.models
    )
    steps, checkpoint = (source and change(source) for source in (training.steps, training.checkpoint))
    return replace(training, models=models, steps=steps, checkpoint=checkpoint)


def _map_preview(preview: Preview, change: Callable[[Source], Source], change_op: Callable[[Op], Op]) -> Preview:
    ops = {key: change_op(op) for key, op in preview.ops.items()}
    outputs = {name: replace(output, source=change(output.source)) for name, output in preview.outputs.items()}
    return Preview(change(preview.every), ops, outputs)
