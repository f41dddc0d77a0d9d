"""A training loop: a loop whose body yields losses, and whose trained carries are live models.

Each iteration is one forward of the body; then the gradient of each loss for its own models' parameters
only, reduced over the ranks; then a step of all optimisers. Models are deep-copied on entry; the result is
frozen again (the exponential moving average where one is asked for). A run that was killed resumes from its
checkpoint to the same losses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.call import Body, PortError, fail
from guidegraph.graph.checkpoint import (
    CheckpointError,
    State,
    optimiser_tensors,
    read_state,
    restore_optimiser,
    write_state,
)
from guidegraph.graph.errors import Cancelled, NodeError
from guidegraph.graph.ir import Carry, Loop, Optimised, Source, Training
from guidegraph.graph.loop import enter, entries, progress, run_region
from guidegraph.graph.plan import BodyPlan, Plan, Step

if TYPE_CHECKING:
    import torch

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
OPTIMISERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}


@dataclass
class Trained:
    """One live model with its optimiser and, where asked, its moving average."""

    spec: Optimised
    model: torch.nn.Module
    parameters: list[torch.nn.Parameter]
    optimiser: torch.optim.Optimizer
    average: torch.nn.Module | None


def learning_rate(spec: Optimised, step: int, total: int) -> float:
    """The rate at a step: linear warm-up over ``warmup`` steps, then ``schedule`` (constant, cosine or linear)."""
    begun = step - spec.start
    warmup = int(spec.options.get("warmup", 0))
    if begun < warmup:
        return spec.lr * (begun + 1) / warmup
    done = (begun - warmup) / max(1, total - spec.start - warmup)
    shape = spec.options.get("schedule", "constant")
    if shape == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return spec.lr * (1 - min(done, 1.0)) if shape == "linear" else spec.lr


def run_training(step: Step, outside: dict[Source, Any], body: Body, plan: Plan) -> dict[str, Any]:
    """Train, and give the loop's outputs. Raises ``NodeError``, ``Cancelled``."""
    import torch

    loop, body_plan = step.op, step.body
    assert isinstance(loop, Loop)
    assert body_plan is not None
    assert loop.training is not None
    devices = [outside_device(outside)]
    state = torch.random.get_rng_state()
    try:
        with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]), torch.enable_grad():
            torch.manual_seed(int(loop.training.options.get("seed", 0)))
            return _Fit(step, loop, loop.training, body_plan, outside, body, plan).run()
    except (NodeError, Cancelled):
        raise
    except (CheckpointError, ValueError, TypeError) as error:
        raise fail(step, error) from error
    finally:
        torch.random.set_rng_state(state)


def outside_device(outside: dict[Source, Any]) -> torch.device:
    from guidegraph.graph.context import current_device

    return current_device()


class _Fit:
    """The state of one training run."""

    def __init__(
        self,
        step: Step,
        loop: Loop,
        training: Training,
        body_plan: BodyPlan,
        outside: dict[Source, Any],
        body: Body,
        plan: Plan,
    ):
        from lightning_fabric import Fabric

        self.step, self.loop, self.training, self.body_plan = step, loop, training, body_plan
        self.outside, self.body, self.plan = outside, body, plan
        self.items = entries(step, outside[loop.over])
        self.total = len(self.items) if training.steps is None else int(outside[training.steps])
        if self.total and not len(self.items):
            raise PortError("over", "a training loop needs at least one batch; found none")
        device = outside_device(outside)
        precision: Any = PRECISIONS[training.precision]
        accelerator = "cuda" if device.type == "cuda" else "cpu"
        self.fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        self.trained = {spec.model: self._prepare(spec, device) for spec in training.models}
        self.carry: dict[str, Any] = {
            name: self.trained[name].model if name in self.trained else outside[source]
            for name, source in loop.carry.items()
        }
        self.history: dict[str, list[Any]] = {name: [] for name in loop.collect}
        self.key = plan.digests.loop(loop, steps=False)
        self.folder: Path | None = None if training.checkpoint is None else outside[training.checkpoint]

    def _prepare(self, spec: Optimised, device: torch.device) -> Trained:
        import torch

        value = self.outside[self.loop.carry[spec.model]]
        if not isinstance(value, torch.nn.Module):
            raise PortError(spec.model, f"only a torch module can be trained; found {type(value).__name__}")
        model = copy.deepcopy(value).to(device).train().requires_grad_(True)
        average = copy.deepcopy(value).to(device).eval().requires_grad_(False) if spec.ema is not None else None
        parameters = list(model.parameters())
        keywords = {k: v for k, v in spec.options.items() if k in ("betas", "weight_decay", "eps", "momentum")}
        if "betas" in keywords:
            keywords["betas"] = tuple(keywords["betas"])
        optimiser = getattr(torch.optim, OPTIMISERS[spec.optimizer])(parameters, lr=spec.lr, **keywords)
        return Trained(spec, model, parameters, optimiser, average)

    def run(self) -> dict[str, Any]:
        begin = self._resume()
        folder, every = self.folder, self.training.every
        self.body.at.append(begin)
        done = begin
        try:
            for i, item in _ahead(self.items, begin, self.total):
                self.body.cancel.check()
                self.body.at[-1] = i
                values = self._iterate(i, item)
                done = i + 1
                progress(self.body, self.loop, done, self.total, values)
                if folder is not None and every and done % every == 0 and done < self.total:
                    self._save(done)
        except Cancelled:
            if folder is not None and done > begin:
                self._save(done)
            raise
        if folder is not None and done > begin:
            self._save(done)
        self.body.at.pop()
        return self._results()

    def _iterate(self, i: int, item: Any) -> dict[str, float]:
        import torch

        here: dict[Source, Any] = dict(self.outside)
        here.update({Carry(self.loop.key, name): value for name, value in self.carry.items()})
        enter(here, self.body_plan.late_inputs, self.loop, item, i)
        with self.fabric.autocast():
            results = run_region(self.body_plan.variant({}), here, self.body, self.plan)
        for loss, group in self._groups(i).items():
            self._update(results[loss], [self.trained[m] for m in group], i)
        for name, source in self.loop.next.items():
            if name not in self.trained:
                value = results[source]
                self.carry[name] = value.detach() if isinstance(value, torch.Tensor) else value
        for name, source in self.loop.collect.items():
            value = results[source]
            self.history[name].append(value.detach().float().cpu() if isinstance(value, torch.Tensor) else value)
        shown = {s: name for name, s in self.loop.collect.items()}
        losses = {m.loss: m.model for m in self.training.models}
        numbers = {shown.get(source, f"{model} loss"): results[source] for source, model in losses.items()}
        return {n: float(v.detach()) for n, v in numbers.items()}

    def _groups(self, i: int) -> dict[Source, list[str]]:
        """Models to update at step i, by their loss: one backward pass serves all models of one loss."""
        groups: dict[Source, list[str]] = {}
        for spec in self.training.models:
            if i >= spec.start:
                groups.setdefault(spec.loss, []).append(spec.model)
        return groups

    def _update(self, loss: Any, group: Sequence[Trained], i: int) -> None:
        import torch

        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise ValueError(f"a loss is one number as a tensor; found {type(loss).__name__}")
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of {', '.join(t.spec.model for t in group)} is {float(loss)} at step {i}")
        parameters = [p for t in group for p in t.parameters]
        last = loss.requires_grad
        if not last:
            raise ValueError(f"the loss of {', '.join(t.spec.model for t in group)} does not depend on the model")
        gradients = torch.autograd.grad(loss.reshape(()), parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            reduced = gradient
            if gradient is not None and self.fabric.world_size > 1:
                reduced = self.fabric.all_reduce(gradient, reduce_op="mean")  # type: ignore[assignment]
            parameter.grad = reduced
        for t in group:
            if clip := t.spec.options.get("clip"):
                torch.nn.utils.clip_grad_norm_(t.parameters, float(clip))
            for entry in t.optimiser.param_groups:
                entry["lr"] = learning_rate(t.spec, i, self.total)
            t.optimiser.step()
            t.optimiser.zero_grad(set_to_none=True)
            _follow(t, i)

    def _save(self, done: int) -> None:
        import torch

        assert self.folder is not None
        state = State(done, {"rng": torch.random.get_rng_state()})
        for name, t in self.trained.items():
            state.tensors |= {f"model.{name}.{k}": v for k, v in t.model.state_dict().items()}
            state.tensors |= {f"optimiser.{name}.{k}": v for k, v in optimiser_tensors(t.optimiser).items()}
            if t.average is not None:
                state.tensors |= {f"ema.{name}.{k}": v for k, v in t.average.state_dict().items()}
        for name, values in self.history.items():
            state.tensors[f"history.{name}"] = torch.stack([torch.as_tensor(v, dtype=torch.float32) for v in values])
        for name, value in self.carry.items():
            if name not in self.trained and isinstance(value, torch.Tensor):
                state.tensors[f"carry.{name}"] = value
        write_state(self.folder, self.key, state)

    def _resume(self) -> int:
        """Load the checkpoint, if there is one, and give the step to go on from."""
        import torch

        if self.folder is None:
            return 0
        check = bool(self.training.options.get("check", True))
        state = read_state(self.folder, self.key, check=check)
        if state is None:
            return 0
        for name, t in self.trained.items():
            t.model.load_state_dict(state.part(f"model.{name}."))
            restore_optimiser(t.optimiser, state.part(f"optimiser.{name}."))
            if t.average is not None:
                t.average.load_state_dict(state.part(f"ema.{name}."))
        for name in self.history:
            self.history[name] = list(state.tensors[f"history.{name}"])
        for name, value in state.part("carry.").items():
            self.carry[name] = value
        torch.random.set_rng_state(state.tensors["rng"])
        return state.step

    def _results(self) -> dict[str, Any]:
        from guidegraph.graph.loop import stack

        out: dict[str, Any] = {}
        for name in self.loop.carry:
            if name in self.trained:
                t = self.trained[name]
                chosen = t.average if t.average is not None else t.model
                out[name] = chosen.eval().requires_grad_(False)
            else:
                out[name] = self.carry[name]
        return {**out, **{name: stack(values) for name, values in self.history.items()}}


def _follow(t: Trained, i: int) -> None:
    """Move the average towards the model; early on faster, so that the start is forgotten."""
    import torch

    if t.average is None or t.spec.ema is None:
        return
    begun = i - t.spec.start
    decay = min(t.spec.ema, (1 + begun) / (10 + begun))
    with torch.no_grad():
        for kept, live in zip(t.average.parameters(), t.model.parameters(), strict=True):
            kept.lerp_(live, 1 - decay)
        for to, origin in zip(t.average.buffers(), t.model.buffers(), strict=True):
            to.copy_(origin)


def _ahead(items: Sequence[Any], begin: int, end: int) -> Iterator[tuple[int, Any]]:
    """Entries ``begin`` to ``end`` (round and round), the next one prepared on a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="guidegraph-batch") as pool:
        coming = pool.submit(items.__getitem__, begin % len(items)) if begin < end else None
        for i in range(begin, end):
            assert coming is not None
            item = coming.result()
            if i + 1 < end:
                coming = pool.submit(items.__getitem__, (i + 1) % len(items))
            yield i, item
