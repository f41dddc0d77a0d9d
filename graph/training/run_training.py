"""Running a training loop: a loop whose body yields losses, and whose trained carries are live models.

Each iteration runs the body once, computes the gradient of each loss for its own models' parameters, averages it over
the processes, and steps all optimisers. Models are deep-copied on entry; the result is frozen again (the exponential
moving average if there is one). A run that was killed resumes from its checkpoint to the same losses. Several processes
divide the rows of every batch among them.
"""

from __future__ import annotations

import contextvars
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from guidegraph.graph import events, torch_private
from guidegraph.graph.cancellation import CancelToken, is_interrupt
from guidegraph.graph.device_context import current_device
from guidegraph.graph.errors import Cancelled, NodeError, PortError
from guidegraph.graph.events import TrainingStarted
from guidegraph.graph.execution.call import node_error
from guidegraph.graph.execution.loop import (
    fetch_item,
    list_items,
    report_progress,
    run_phases,
    set_item,
    stack,
    to_device,
)
from guidegraph.graph.execution.loop_context import LoopContext, Previewed
from guidegraph.graph.frozen_models import copy_frozen
from guidegraph.graph.hardware.policy import ComputePolicy
from guidegraph.graph.ir import Loop, walk
from guidegraph.graph.late import torch
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BodyPlan, Step, first_phase
from guidegraph.graph.sources import Carry, Index, Source
from guidegraph.graph.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    TrainingProgress,
    lock_state,
    preserve_generators,
    read_generators,
    resume_key,
)
from guidegraph.graph.training.fit import Fit, Preview, Training
from guidegraph.graph.training.precision import autocast, resolve_precision
from guidegraph.graph.training.ranks import ProcessGroup, take_rank_rows, use_rank
from guidegraph.graph.training.trained_model import (
    TrainedModel,
    apply_links,
    check_weights,
    prepare_model,
    save_buffers,
    set_gradients,
    step_model,
)
from guidegraph.graph.types import describe_value, is_tensor
from guidegraph.graph.values.ownership import copy_value


def is_due(every: int, done: int, total: int) -> bool:
    """Whether a preview runs after ``done`` of ``total`` steps: every ``every`` steps and at the end; never if 0."""
    return every > 0 and (done % every == 0 or done == total)


def run_preview(
    loop: Loop,
    preview: Preview,
    done: int,
    carry: Mapping[str, Any],
    outside: Mapping[Source, Any],
    context: LoopContext,
    plan: Plan,
    device: torch.device,
) -> None:
    """Run a preview with the carries after ``done`` steps, and pass on its outputs.

    Models are passed as frozen copies that share their tensors; torch's generators are restored. Raises ``NodeError``
    and ``Cancelled``.
    """
    values: dict[Source, Any] = {**outside, Index(loop.key): done - 1}
    values |= {Carry(loop.key, name): copy_frozen(value) for name, value in carry.items()}
    phase = first_phase(*preview.block, plan.config.passes)
    with preserve_generators(device), torch.no_grad(), context.trips.count_separately():
        results = run_phases(phase, values, context, plan)
    for name, output in preview.outputs.items():
        if context.on_preview is not None:
            context.on_preview(Previewed(loop.key, done, name, copy_value(results[output.source]), output.type))
        for observer in context.observers:
            observer(events.PreviewReady(f"nodes.{loop.key}", name, done))


def run_training(step: Step, outside: dict[Source, Any], context: LoopContext, plan: Plan) -> dict[str, Any]:
    """Run a training loop, with nothing accelerated. Returns its outputs. Raises ``NodeError``, ``Cancelled``."""
    body_plan = step.body
    assert body_plan is not None
    fit = body_plan.loop
    assert isinstance(fit, Fit)
    device = current_device()
    try:
        several_gradients = keep_for_several_gradients(plan.config.accelerate)
        accelerator = context.accelerator
        suspended = nullcontext() if accelerator is None else accelerator.suspend(f"nodes.{fit.key}")
        with suspended, preserve_generators(device), torch.enable_grad(), several_gradients:
            torch.manual_seed(int(fit.training.options.get("seed", 0)))
            run = _TrainingRun(step, fit, body_plan, outside, context, plan)
            with lock_state(run.checkpoint.folder if run.processes.is_first else None):
                return run.run()
    except (NodeError, Cancelled):
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise node_error(step, error) from error


class _TrainingRun:
    """One run of a training loop on one process."""

    def __init__(
        self,
        step: Step,
        fit: Fit,
        body_plan: BodyPlan,
        outside: dict[Source, Any],
        context: LoopContext,
        plan: Plan,
    ):
        self.step, self.fit, self.body_plan = step, fit, body_plan
        self.outside, self.context, self.plan = outside, context, plan
        self.training = training = _apply_all_links(fit.training, outside)
        self.has_loops = any(op.has_blocks for op in walk(fit.body))
        self.items = list_items(step, outside[fit.over])
        self.total = len(self.items) if fit.steps is None else int(outside[fit.steps])
        if self.total < 0:
            raise PortError("steps", f"expected 0 or more steps; found {self.total}")
        context.count_trips(step, self.total)
        if self.total and not len(self.items):
            raise PortError("over", "a training loop needs at least one batch; found none")
        device = self.device = current_device()
        self.processes = ProcessGroup(device)
        self.precision = self._choose_precision(training.precision)
        trained = {spec.model: prepare_model(spec, outside[fit.carry[spec.model]], device) for spec in training.models}
        if plan.config.accelerate == COMPILE:
            compile_models(t.model for t in trained.values())
        carry = {name: outside[source] for name, source in fit.carry.items() if name not in trained}
        self.progress = TrainingProgress(trained, carry, {name: [] for name in fit.collect})
        self.checkpoint = Checkpoint(
            self._find_folder(),
            resume_key(plan, fit),
            self.precision,
            bool(training.options.get("check", True)),
            self.processes.is_first,
        )

    def _find_folder(self) -> Path | None:
        """The folder of the checkpoint, if there is one. Raises ``PortError`` in the body of another loop."""
        checkpoint = self.training.checkpoint
        folder: Path | None = None if checkpoint is None else self.outside[checkpoint]
        if folder is not None and self.context.iterations:
            raise PortError(
                "checkpoint",
                f"this training is in the body of another loop, and '{folder}' would be the checkpoint of each of its "
                "iterations: leave 'checkpoint' out, or train outside of that loop",
            )
        return folder

    def _choose_precision(self, setting: str) -> str:
        """The precision of all processes. The first one warns if any of them only emulates bf16."""
        policy = ComputePolicy(str(self.device))
        gains = setting == "auto" and not self.processes.any(not policy.trains_faster_in_bf16())
        emulated = setting == "bf16" and self.processes.any(policy.trains_in_emulated_bf16())
        with warnings.catch_warnings():
            if not self.processes.is_first:
                warnings.simplefilter("ignore")
            return resolve_precision(setting, self.device, emulated=emulated, gains=gains)

    def run(self) -> dict[str, Any]:
        """Run all steps that are left, and return the loop's outputs."""
        progress, checkpoint = self.progress, self.checkpoint
        first_step = done = self._load()
        started = TrainingStarted(f"nodes.{self.fit.key}", self.precision, self.training.precision, first_step)
        for observer in self.context.observers:
            observer(started)
        progress.generators = read_generators(self.device)
        self.context.iterations.append(first_step)
        try:
            for i, item in _iterate_items(self.step, self.items, first_step, self.total):
                if self.processes.any(self.context.cancel.cancelled):
                    self.context.cancel.cancel()
                    self.context.cancel.check()
                self.context.iterations[-1] = i
                losses = self._iterate(i, item)
                # Read here, since the next step may be interrupted after it has drawn numbers.
                progress.generators = read_generators(self.device)
                if i == first_step:
                    checkpoint.check_serialisable(progress)
                done = i + 1
                report_progress(self.context, self.fit, done, self.total, losses)
                if done % self.training.every == 0 and done < self.total:
                    self._save(done)
                self._preview(done)
        except Cancelled:
            if done > first_step:
                self._save(done)
            raise
        if done > first_step:
            self._save(done)
        self.context.iterations.pop()
        results = dict(self.progress.carry)
        for name, t in self.progress.models.items():
            results[name] = restore_model(t.result).eval().requires_grad_(False)
        history = self.progress.history
        return results | {name: stack(values, self.fit.outputs[name]) for name, values in history.items()}

    def _load(self) -> int:
        """Load the checkpoint, and return the step to resume from, which all processes must have in common."""
        step, rank = self.checkpoint.load(self.progress, self.device, self.total), self.processes.rank
        if not self.processes.agree(step):
            raise CheckpointError(
                f"process {rank.index} of {rank.count} would go on from step {step} of the checkpoint in "
                f"'{self.checkpoint.folder}', and another process from another step: the folder must be readable by "
                "all machines"
            )
        return step

    def _save(self, done: int) -> None:
        """Write the checkpoint after ``done`` steps. Raises ``ValueError`` for weights that are not finite."""
        for t in self.progress.models.values():
            check_weights(t, done)
        self.checkpoint.save(self.progress, done)

    def _preview(self, done: int) -> None:
        """Run the preview if it is due, in the first process only, with the moving averages of models that have one.

        If it fails, the checkpoint after ``done`` steps is written before the error leaves.
        """
        preview, progress = self.fit.preview, self.progress
        if preview is None or not self.processes.is_first:
            return
        if is_due(int(self.outside[preview.every]), done, self.total):
            carry = {**progress.carry, **{name: t.result for name, t in progress.models.items()}}
            try:
                run_preview(self.fit, preview, done, carry, self.outside, self.context, self.plan, self.device)
            except Cancelled:
                raise
            except Exception:
                self._save(done)
                raise

    def _iterate(self, i: int, item: Any) -> dict[str, float]:
        """Run one step, and return its losses by name."""
        with self._keep_buffers():
            results = self._run_body(i, item)
        self._check_losses(results, i)
        groups = self._group_models(i)
        for number, (loss, group) in enumerate(groups.items(), 1):
            set_gradients(results[loss], group, self.processes, keep_graph=number < len(groups))
        # After all gradients: a step changes weights in place that the gradient of another loss may need.
        with autocast(self.precision, self.device):
            for t in chain.from_iterable(groups.values()):
                step_model(t, i, self.total)
        return self._keep_results(results)

    @contextmanager
    def _keep_buffers(self) -> Iterator[None]:
        """Put the models' buffers back as they were if the run is cancelled in the block, inside a loop of the body."""
        if not self.has_loops:
            yield
            return
        restore = save_buffers(t.model for t in self.progress.models.values())
        try:
            yield
        except Cancelled:
            restore()
            raise

    def _run_body(self, i: int, item: Any) -> dict[Source, Any]:
        models = {name: t.model for name, t in self.progress.models.items()}
        values: dict[Source, Any] = dict(self.outside)
        values.update({Carry(self.fit.key, name): value for name, value in (self.progress.carry | models).items()})
        rank = self.processes.rank
        set_item(values, self.body_plan.item_sources, self.fit, to_device(take_rank_rows(item, rank), self.device), i)
        self.processes.broadcast(buffer for model in models.values() for buffer in model.buffers())
        # Of several processes, none may end within a step: the others would wait for it.
        context = self.context if self.processes.is_alone else replace(self.context, cancel=CancelToken())
        with autocast(self.precision, self.device), use_rank(rank):
            return run_phases(self.body_plan.variant({}), values, context, self.plan)

    def _check_losses(self, results: Mapping[Source, Any], i: int) -> None:
        for number, spec in enumerate(self.training.models):
            loss = results[spec.loss]
            loss_name = f"the loss of '{spec.model}' (train.{number}.loss)"
            if not is_tensor(loss) or loss.numel() != 1:
                raise ValueError(f"{loss_name} must be one number as a tensor; found {describe_value(loss)}")
            if not loss.detach().isfinite():
                raise ValueError(f"{loss_name} is {float(loss.detach())} at step {i}")

    def _group_models(self, i: int) -> dict[Source, list[TrainedModel]]:
        """The models to update at step i, grouped by loss: each loss needs one backward pass."""
        groups: dict[Source, list[TrainedModel]] = {}
        for spec in self.training.models:
            if i >= spec.start:
                groups.setdefault(spec.loss, []).append(self.progress.models[spec.model])
        return groups

    def _keep_results(self, results: Mapping[Source, Any]) -> dict[str, float]:
        """Set the next carries, add to the collected values, and return the losses by name.

        Values are detached. A number is averaged over the processes, as each has seen only its rows.
        """
        fit, progress = self.fit, self.progress
        untrained = {name: source for name, source in fit.next.items() if name not in progress.models}
        losses = {model.loss: model.loss_name for model in self.training.models}
        sources = dict.fromkeys([*untrained.values(), *fit.collect.values(), *losses])
        synchronised = {source: self.processes.mean_of_numbers(_detach(results[source])) for source in sources}
        for name, source in untrained.items():
            progress.carry[name] = synchronised[source]
        for name, source in fit.collect.items():
            progress.history[name].append(synchronised[source])
        return {name: float(synchronised[source]) for source, name in losses.items()}


def _apply_all_links(training: Training, outside: Mapping[Source, Any]) -> Training:
    """The options with linked ones replaced by their values. Raises ``PortError`` for a value that is not valid."""
    try:
        return replace(training, models=tuple(apply_links(spec, outside) for spec in training.models))
    except ValueError as error:
        raise PortError("train", str(error)) from None


def _detach(value: Any) -> Any:
    """A value with all of its tensors detached from their graphs."""
    return torch_private.pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, value)


def _iterate_items(step: Step, items: Sequence[Any], begin: int, end: int) -> Iterator[tuple[int, Any]]:
    """Items ``begin`` to ``end``, cycling through the sequence, without effect on torch's generator.

    A data set with ``prefetch = True`` does not use shared generators: its next item is prepared on a thread. Raises
    ``NodeError``.
    """
    if not getattr(items, "prefetch", False):
        for i in range(begin, end):
            with torch.random.fork_rng(devices=[]):
                item = fetch_item(step, items, i % len(items))
            yield i, item
        return
    context = contextvars.copy_context()  # with the run's device, its limits, and the files that it may read
    with ThreadPoolExecutor(1, thread_name_prefix="guidegraph-batch") as pool:

        def prepare(i: int) -> Future[Any]:
            return pool.submit(context.run, fetch_item, step, items, i % len(items))

        next_item = prepare(begin) if begin < end else None
        for i in range(begin, end):
            assert next_item is not None
            item = next_item.result()
            if i + 1 < end:
                next_item = prepare(i + 1)
            yield i, item


COMPILE = "compile"
"""The accelerator that acts in trainings too."""


def compile_models(models: Iterable[torch.nn.Module]) -> None:
    """Compile the networks of models in place, forward and backward. Names, weights and copies stay as they are.

    The networks that a model is made of are compiled, and not the model: nodes may call it by a method of its own.
    """
    for model in models:
        for network in _list_networks(model):
            _compile(network)


def _compile(network: torch.nn.Module) -> None:
    """Compile a network in place. ``Module.compile`` does nothing for containers of torch itself: dynamo skips them."""
    if not type(network).__module__.startswith("torch.nn.") or not any(network.children()):
        network.compile()
        return
    call: Callable[..., Any] = network._call_impl

    def run(*args: Any, **by_name: Any) -> Any:
        return call(*args, **by_name)

    network._compiled_call_impl = torch.compile(run)


def keep_for_several_gradients(accelerate: str) -> AbstractContextManager[Any]:
    """A context in which compiled networks keep their values for the gradients of several losses.

    By default a compiled backward pass may overwrite them, and torch raises an error if a second one needs them.
    """
    if accelerate != COMPILE:
        return nullcontext()
    patch: AbstractContextManager[Any] = torch_private.functorch_config.patch(donated_buffer=False)
    return patch


def _list_networks(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The outermost modules in a model that are called, or the model itself if it has none."""
    children = [*model.children()]
    if not children:
        yield model
    for child in children:
        if isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            yield from _list_networks(child) if len(child) else ()
        else:
            yield child


def restore_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model as it was before ``compile_models``."""
    for module in model.modules():
        module.__dict__.pop("_compiled_call_impl", None)
    return model
