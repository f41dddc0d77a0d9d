"""A training loop: a loop whose body yields losses, and whose trained carries are live models.

Each iteration runs the body once, computes the gradient of each loss for its own models' parameters, averages it over
the processes, and steps all optimisers. Models are deep-copied on entry; the result is frozen again (the exponential
moving average if there is one). A run that was killed resumes from its checkpoint to the same losses. Several processes
divide the rows of every batch among them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.device_context import current_device
from guidegraph.graph.errors import Cancelled, NodeError
from guidegraph.graph.events import TrainingStarted
from guidegraph.graph.execution.call import PortError, node_error
from guidegraph.graph.execution.loop import fetch_item, list_items, report_progress, run_phases, set_item, stack
from guidegraph.graph.execution.loop_context import LoopContext
from guidegraph.graph.execution.preview import is_due, run_preview
from guidegraph.graph.execution.to_device import to_device
from guidegraph.graph.ir import Carry, Loop, OptimisedModel, Source, Training, walk
from guidegraph.graph.planning.digest import Digests
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BodyPlan, Step
from guidegraph.graph.training.live_models import (
    get_trained_state,
    list_trained_parameters,
    live_copy,
    load_trained_state,
    update_average,
)
from guidegraph.graph.training.options import apply_links
from guidegraph.graph.training.precision import autocast, computes_bf16, is_faster_in_bf16, resolve_precision
from guidegraph.graph.training.process_group import ProcessGroup
from guidegraph.graph.training.ranks import take_rank_rows, use_rank
from guidegraph.graph.training.resume import (
    TrainingState,
    lock_state,
    optimiser_tensors,
    read_state,
    restore_optimiser,
    write_state,
)
from guidegraph.graph.types import describe_value, is_tensor
from guidegraph.graph.values.serialise import NotSerialisable, encode
from guidegraph.graph.values.torch_generators import preserve_generators, read_generators, restore_generators

if TYPE_CHECKING:
    import torch

OPTIMISERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}


@dataclass
class TrainedModel:
    """One live model with its optimiser and, if requested, its moving average."""

    spec: OptimisedModel
    model: torch.nn.Module
    parameters: list[torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    average: torch.nn.Module | None


def learning_rate(spec: OptimisedModel, step: int, total: int) -> float:
    """The learning rate at a step: linear warm-up over ``warmup`` steps, then constant, cosine or linear decay."""
    steps_trained = step - spec.start
    warmup = int(spec.options.get("warmup", 0))
    if steps_trained < warmup:
        return spec.lr * (steps_trained + 1) / warmup
    progress_fraction = (steps_trained - warmup) / max(1, total - spec.start - warmup)
    shape = spec.options.get("schedule", "constant")
    if shape == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * min(progress_fraction, 1.0)))
    return spec.lr * (1 - min(progress_fraction, 1.0)) if shape == "linear" else spec.lr


def run_training(step: Step, outside: dict[Source, Any], context: LoopContext, plan: Plan) -> dict[str, Any]:
    """Run a training loop and return its outputs. Raises ``NodeError`` and ``Cancelled``."""
    import torch

    loop, body_plan = step.op, step.body
    assert isinstance(loop, Loop)
    assert body_plan is not None
    assert loop.training is not None
    device = current_device()
    try:
        with preserve_generators(device), torch.enable_grad():
            torch.manual_seed(int(loop.training.options.get("seed", 0)))
            fit = _Fit(step, loop, loop.training, body_plan, outside, context, plan)
            with lock_state(fit.folder if fit.processes.is_first else None):
                return fit.run()
    except (NodeError, Cancelled):
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise node_error(step, error) from error


def resume_key(plan: Plan, loop: Loop) -> str:
    """The key of a training's checkpoint: a digest of its graph, without number of steps, precision and device.

    The device is left out because each of several processes has its own, and one process names its device differently.
    """
    _, _, dtype = plan.digests.device_key.partition(" ")
    digests = Digests(dtype, structural=True)
    digests.add(plan.bound)
    bound = next((op for op in walk(plan.bound) if op.key == loop.key), loop)
    assert isinstance(bound, Loop)
    return digests.loop_digest(bound, resumed=True)


class _Fit:
    """The state of one training run."""

    def __init__(
        self,
        step: Step,
        loop: Loop,
        training: Training,
        body_plan: BodyPlan,
        outside: dict[Source, Any],
        context: LoopContext,
        plan: Plan,
    ):
        try:
            training = replace(training, models=tuple(apply_links(spec, outside) for spec in training.models))
        except ValueError as error:
            raise PortError("train", str(error)) from None
        self.step, self.loop, self.training, self.body_plan = step, loop, training, body_plan
        self.outside, self.context, self.plan = outside, context, plan
        self.items = list_items(step, outside[loop.over])
        self.total = len(self.items) if training.steps is None else int(outside[training.steps])
        context.count_trips(step, self.total)
        if self.total and not len(self.items):
            raise PortError("over", "a training loop needs at least one batch; found none")
        device = self.device = current_device()
        self.processes = ProcessGroup(device)
        self.precision = self._choose_precision(training.precision)
        self.trained = {spec.model: self._prepare(spec, device) for spec in training.models}
        self.carry: dict[str, Any] = {
            name: self.trained[name].model if name in self.trained else outside[source]
            for name, source in loop.carry.items()
        }
        self.history: dict[str, list[Any]] = {name: [] for name in loop.collect}
        self.key = resume_key(plan, loop)
        self.folder: Path | None = None if training.checkpoint is None else outside[training.checkpoint]

    def _choose_precision(self, setting: str) -> str:
        """The precision of all processes. The first one warns if any of them only emulates bf16."""
        gains = setting == "auto" and not self.processes.any(not is_faster_in_bf16(self.device))
        emulated = setting == "bf16" and self.processes.any(not computes_bf16(self.device))
        with warnings.catch_warnings():
            if not self.processes.is_first:
                warnings.simplefilter("ignore")
            return resolve_precision(setting, self.device, emulated=emulated, gains=gains)

    def _prepare(self, spec: OptimisedModel, device: torch.device) -> TrainedModel:
        import torch

        value = self.outside[self.loop.carry[spec.model]]
        if not isinstance(value, torch.nn.Module):
            raise PortError(spec.model, f"only a torch module can be trained; found {type(value).__name__}")
        model = live_copy(value, device).train()
        average = live_copy(value, device).eval().requires_grad_(False) if spec.ema is not None else None
        parameters = list_trained_parameters(model)
        for parameter in parameters:
            parameter.requires_grad_(True)
        keywords = {k: v for k, v in spec.options.items() if k in ("betas", "weight_decay", "eps", "momentum")}
        if "betas" in keywords:
            keywords["betas"] = tuple(keywords["betas"])
        optimiser = getattr(torch.optim, OPTIMISERS[spec.optimizer])(parameters, lr=spec.lr, **keywords)
        return TrainedModel(spec, model, parameters, optimiser, average)

    def run(self) -> dict[str, Any]:
        first_step = self._resume()
        started = TrainingStarted(f"nodes.{self.loop.key}", self.precision, self.training.precision, first_step)
        for observer in self.context.observers:
            observer(started)
        self.generators = read_generators(self.device)
        folder, every = self.folder, self.training.every
        self.context.iterations.append(first_step)
        done = first_step
        try:
            for i, item in _iterate_items(self.step, self.items, first_step, self.total):
                self._check_cancelled()
                self.context.iterations[-1] = i
                values = self._iterate(i, item)
                self.generators = read_generators(self.device)
                if folder is not None and i == first_step:
                    self._check_serialisable()
                done = i + 1
                report_progress(self.context, self.loop, done, self.total, values)
                if folder is not None and every and done % every == 0 and done < self.total:
                    self._save(done)
                self._preview(done)
        except Cancelled:
            if folder is not None and done > first_step:
                self._save(done)
            raise
        if folder is not None and done > first_step:
            self._save(done)
        self.context.iterations.pop()
        return self._results()

    def _preview(self, done: int) -> None:
        """Run the preview if it is due, in the first process only, with the moving averages of models that have one."""
        preview = self.training.preview
        if preview is None or not self.processes.is_first:
            return
        if is_due(int(self.outside[preview.every]), done, self.total):
            models = {name: t.model if t.average is None else t.average for name, t in self.trained.items()}
            carry = {**self.carry, **models}
            run_preview(self.loop, preview, done, carry, self.outside, self.context, self.plan, self.device)

    def _check_cancelled(self) -> None:
        """Raise ``Cancelled`` in all processes at the same step, so that none waits for the others."""
        if self.processes.any(self.context.cancel.cancelled):
            self.context.cancel.cancel()
            self.context.cancel.check()

    def _iterate(self, i: int, item: Any) -> dict[str, float]:
        values: dict[Source, Any] = dict(self.outside)
        values.update({Carry(self.loop.key, name): value for name, value in self.carry.items()})
        share = self.processes.rank
        set_item(values, self.body_plan.item_sources, self.loop, to_device(take_rank_rows(item, share), self.device), i)
        self.processes.broadcast(b for t in self.trained.values() for b in t.model.buffers())
        with autocast(self.precision, self.device), use_rank(share):
            results = run_phases(self.body_plan.variant({}), values, self.context, self.plan)
        self._check_losses(results, i)
        groups = self._groups(i)
        for loss, group in groups.items():
            self._set_gradients(results[loss], group)
        # After all gradients: a step changes weights in place that the gradient of another loss may need.
        for t in chain.from_iterable(groups.values()):
            self._step(t, i)
        untrained_sources = [source for name, source in self.loop.next.items() if name not in self.trained]
        losses = {m.loss: m.model for m in self.training.models}
        synchronised = {
            s: self._synchronise(results[s])
            for s in dict.fromkeys([*untrained_sources, *self.loop.collect.values(), *losses])
        }
        for name, source in self.loop.next.items():
            if name not in self.trained:
                self.carry[name] = synchronised[source]
        for name, source in self.loop.collect.items():
            self.history[name].append(synchronised[source])
        metric_names = {s: name for name, s in self.loop.collect.items()}
        return {
            metric_names.get(source, f"{model} loss"): float(synchronised[source]) for source, model in losses.items()
        }

    def _synchronise(self, value: Any) -> Any:
        """A value detached from its graph; a number is averaged over the processes, as each has seen only its rows."""
        return self.processes.mean_of_numbers(_detach(value))

    def _groups(self, i: int) -> dict[Source, list[TrainedModel]]:
        """The models to update at step i, grouped by loss: each loss needs one backward pass."""
        groups: dict[Source, list[TrainedModel]] = {}
        for spec in self.training.models:
            if i >= spec.start:
                groups.setdefault(spec.loss, []).append(self.trained[spec.model])
        return groups

    def _set_gradients(self, loss: Any, group: Sequence[TrainedModel]) -> None:
        """Set the gradients of a loss for its own models' parameters. Raises ``ValueError`` if a model has none."""
        import torch

        parameters = [p for t in group for p in t.parameters]
        gradients: Sequence[torch.Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss.reshape(()), parameters, retain_graph=True, allow_unused=True)
        with_gradient = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        for t in group:
            if not any(id(p) in with_gradient for p in t.parameters):
                raise ValueError(f"the loss of '{t.spec.model}' does not depend on it: no parameter has a gradient")
        for parameter, gradient in zip(parameters, self.processes.mean(gradients), strict=True):
            parameter.grad = gradient

    def _step(self, t: TrainedModel, i: int) -> None:
        import torch

        if clip := t.spec.options.get("clip"):
            torch.nn.utils.clip_grad_norm_(t.parameters, float(clip))
        for group in t.optimiser.param_groups:
            group["lr"] = learning_rate(t.spec, i, self.total)
        t.optimiser.step()
        t.optimiser.zero_grad(set_to_none=True)
        _update_average(t, i)

    def _check_losses(self, results: Mapping[Source, Any], i: int) -> None:
        for number, spec in enumerate(self.training.models):
            loss = results[spec.loss]
            loss_name = f"the loss of '{spec.model}' (train.{number}.loss)"
            if not is_tensor(loss) or loss.numel() != 1:
                raise ValueError(f"{loss_name} must be one number as a tensor; found {describe_value(loss)}")
            if not loss.detach().isfinite():
                raise ValueError(f"{loss_name} is {float(loss.detach())} at step {i}")

    def _next_untrained_carries(self) -> dict[str, Any]:
        return {name: value for name, value in self.carry.items() if name not in self.trained}

    def _check_serialisable(self) -> None:
        """Raise ``ValueError`` after the first step if a checkpoint could not store the values."""
        for kind, values in (("carry", self._next_untrained_carries()), ("collect", self.history)):
            for name, value in values.items():
                try:
                    encode(value)
                except NotSerialisable as error:
                    raise ValueError(f"{kind} '{name}' cannot be kept in a checkpoint: {error}") from None

    def _save(self, done: int) -> None:
        """Write the state after ``done`` steps, with the generators from then: the next may have been interrupted."""
        assert self.folder is not None
        if not self.processes.is_first:
            return
        state = TrainingState(done, dict(self.generators), precision=self.precision)
        for name, t in self.trained.items():
            state.tensors |= {f"model.{name}.{k}": v for k, v in get_trained_state(t.model).items()}
            state.tensors |= {f"optimiser.{name}.{k}": v for k, v in optimiser_tensors(t.optimiser).items()}
            if t.average is not None:
                state.tensors |= {f"ema.{name}.{k}": v for k, v in get_trained_state(t.average).items()}
        state.values = {
            "history": {n: _pack(v) for n, v in self.history.items()},
            "carry": self._next_untrained_carries(),
        }
        write_state(self.folder, self.key, state)

    def _resume(self) -> int:
        """Load the checkpoint, if there is one, and return the step to resume from."""
        if self.folder is None:
            return 0
        check = bool(self.training.options.get("check", True))
        state = read_state(self.folder, self.key, check=check)
        if state is None:
            return 0
        if self.processes.is_first and state.doubt:
            warnings.warn(state.doubt, stacklevel=2)
        if self.processes.is_first and state.precision not in (None, self.precision):
            warnings.warn(
                f"the checkpoint in '{self.folder}' was trained in {state.precision} up to step {state.step}, and goes "
                f"on in {self.precision}: the losses differ by rounding from those of a training that was not stopped",
                stacklevel=2,
            )
        for name, t in self.trained.items():
            load_trained_state(t.model, state.part(f"model.{name}."))
            restore_optimiser(t.optimiser, state.part(f"optimiser.{name}."))
            if t.average is not None:
                load_trained_state(t.average, state.part(f"ema.{name}."))
        values_on_device = to_device(state.values, self.device)
        self.history = {name: _unpack(packed) for name, packed in values_on_device["history"].items()}
        self.carry.update(values_on_device["carry"])
        restore_generators(self.device, state.tensors)
        return state.step

    def _results(self) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name in self.loop.carry:
            if name in self.trained:
                t = self.trained[name]
                chosen = t.average if t.average is not None else t.model
                results[name] = chosen.eval().requires_grad_(False)
            else:
                results[name] = self.carry[name]
        return {**results, **{name: stack(values, self.loop.outputs[name]) for name, values in self.history.items()}}


def _update_average(t: TrainedModel, i: int) -> None:
    """Update the moving average; with ``ema_warmup`` its decay is lower at first, so that the start is forgotten."""
    if t.average is None or t.spec.ema is None:
        return
    decay = t.spec.ema
    if t.spec.options.get("ema_warmup"):
        steps_trained = i - t.spec.start
        decay = min(decay, (1 + steps_trained) / (10 + steps_trained))
    update_average(t.average, t.model, decay)


def _detach(value: Any) -> Any:
    """A value with all of its tensors detached from their graphs."""
    import torch
    from torch.utils._pytree import tree_map

    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, value)


def _pack(values: list[Any]) -> dict[str, Any]:
    """Collected values for a checkpoint; tensors of one shape are stacked."""
    stacked = stack(values)
    return {"stacked": stacked} if is_tensor(stacked) else {"each": values}


def _unpack(packed: dict[str, Any]) -> list[Any]:
    return list(packed["stacked"].unbind()) if "stacked" in packed else list(packed["each"])


def _iterate_items(step: Step, items: Sequence[Any], begin: int, end: int) -> Iterator[tuple[int, Any]]:
    """Items ``begin`` to ``end``, cycling through the sequence, without effect on torch's generator.

    A data set with ``prefetch = True`` does not use shared generators: its next item is prepared on a thread. Raises
    ``NodeError``.
    """
    import torch

    if not getattr(items, "prefetch", False):
        for i in range(begin, end):
            with torch.random.fork_rng(devices=[]):
                item = fetch_item(step, items, i % len(items))
            yield i, item
        return
    with ThreadPoolExecutor(1, thread_name_prefix="guidegraph-batch") as pool:
        next_item = pool.submit(fetch_item, step, items, begin % len(items)) if begin < end else None
        for i in range(begin, end):
            assert next_item is not None
            item = next_item.result()
            if i + 1 < end:
                next_item = pool.submit(fetch_item, step, items, (i + 1) % len(items))
            yield i, item
