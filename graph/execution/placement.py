"""Placement of models: those that a block of the top level reads are brought to the run's device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from guidegraph.graph.errors import GuidegraphError, NodeError
from guidegraph.graph.events import ModelMoved
from guidegraph.graph.execution.call import node_error
from guidegraph.graph.execution.interpreter import Execute
from guidegraph.graph.execution.run_record import node_path
from guidegraph.graph.memory.residency import FROM_OUTSIDE, Residency, ValueOrigin, move_models
from guidegraph.graph.memory.weights import Mover, TorchMover
from guidegraph.graph.planning.steps import BlockPlan, Step
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Output
from guidegraph_runtime.error_text import error_text
from guidegraph_runtime.machine.shortages import with_shortage


class Placement:
    """Brings the models of a block to the device: all at the start or, under a memory budget, step by step.

    residency: of the models, under a budget. position: of the next step.
    """

    def __init__(self, block: BlockPlan, config: RunConfig, mover: Mover | None, on_move: Callable[[ModelMoved], None]):
        self.block, self.config, self.mover, self.on_move = block, config, mover, on_move
        self.residency: Residency | None = None
        self.position = 0

    def start(self, slots: list[Any]) -> None:
        """Bring the models that the block starts with to the device; under a budget, only register them.

        Raises ``NodeError`` for a step whose models exceed the budget, and ``GuidegraphError`` if models cannot be
        moved.
        """
        block, config = self.block, self.config
        if self.mover is None and config.on_cpu:
            return
        constant_slots = [slot for slot, _ in block.constants]
        input_origins = {slot: (node_path(s.op), s.name) for s, slot in block.inputs if isinstance(s, Output)}
        try:
            mover = self.mover or TorchMover(config.device)
            if config.memory_budget is None:
                first_slots = (*constant_slots, *input_origins)
                values = [(input_origins.get(slot, FROM_OUTSIDE), slots[slot]) for slot in first_slots]
                move_models(values, mover, config.device, self.on_move)
                return
            origins = {**input_origins, **_list_origins(block)}
            self.residency = Residency(block, mover, config.memory_budget, config.device, origins, self.on_move)
            self.residency.start(slots, constant_slots, input_origins)
        except NodeError:
            raise
        except Exception as error:
            reason = with_shortage(error_text(error), error)
            raise GuidegraphError(f"models cannot be brought to '{config.device}': {reason}") from error

    def is_free(self, step: Step) -> bool:
        """Whether a step can run early on another thread: it neither reads nor makes models under a budget."""
        return self.residency is None or self.residency.is_free(step)

    def run(self, step: Step, slots: list[Any], compute: Execute) -> None:
        """Compute the next step with its models where it runs; only under a budget.

        It runs on the device, or on the CPU if it only makes or saves models.
        """
        residency = self.residency
        assert residency is not None
        try:
            residency.prepare(self.position)
            with residency.placement(self.position, self.config.dtype):
                compute(step, slots)
            residency.move_outputs(self.position, slots)
        except GuidegraphError:
            raise
        except Exception as error:
            raise node_error(step, error) from error

    def finish(self, step: Step, slots: Sequence[Any]) -> None:
        """Register the models that the step made, and release those that no later step reads; only under a budget.

        Raises ``NodeError``.
        """
        assert self.residency is not None
        try:
            self.residency.finish(self.position, slots)
        except NodeError:
            raise
        except Exception as error:
            raise node_error(step, error) from error
        self.position += 1

    def close(self) -> None:
        """Move all models off the device if there is a budget, also after an error."""
        if self.residency is not None:
            self.residency.close()


def _list_origins(block: BlockPlan) -> dict[int, ValueOrigin]:
    """The operation's path and the output's name for each slot that a step fills."""
    return {
        slot: (node_path(output.op), output.name)
        for step in block.steps
        for slot, output in zip(step.outs, step.outputs(), strict=True)
    }
