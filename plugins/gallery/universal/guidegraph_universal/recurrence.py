"""Repeats the steps of a sampler, as rows of its table."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NamedTuple

from annotated_types import Ge

from guidegraph import Scheduler, Tensor, Timesteps, has_values, node


class Repeated(NamedTuple):
    scheduler: Scheduler
    steps: Timesteps


@node("universal.recur")
def recur(scheduler: Scheduler, *, times: Annotated[int, Ge(1)] = 2) -> Repeated:
    """A sampler that takes every step `times` times: per-step self-recurrence (Bansal et al. 2023, eq. 10, its k).

    After each time but the last, z′_t = √(ᾱ_t/ᾱ_{t−1}) z_{t−1} + √(1 − ᾱ_t/ᾱ_{t−1}) ε′ goes back. That is part of the
    row, which draws ε′ from port `noise` (for DDPM, both noises at once). It starts from the scheduler's own state.
    On a flow schedule √(ᾱ_t/ᾱ_{t−1}) is α_t/α_{t−1}, and the variance of the noise σ_t² − (α_t/α_{t−1})² σ_{t−1}².
    Raises an error for samplers that keep values from step to step, for a learned variance, and for a joined table.
    Levels must fall: rising ones, of `levels.reverse`, are not checked.
    """
    import torch

    alpha, alpha_next = scheduler.alpha, torch.cat([scheduler.alpha, _find_end(scheduler)])[1:]
    power, power_next = (
        value.square() + (1 - value).square() if scheduler.form == "flow" else torch.ones_like(value)
        for value in (alpha, alpha_next)
    )
    ratio = alpha.square() / alpha_next.square()
    _check_repeatable(scheduler)
    back = scheduler.matrix * ratio.sqrt().reshape(-1, 1, 1)
    noise = (back[:, 0, 3].square() + (power - ratio * power_next).clamp(min=0)).sqrt()
    back = torch.cat([torch.cat([back[:, :1, :3], noise.reshape(-1, 1, 1), back[:, :1, 4:]], 2), back[:, 1:]], 1)

    def rows(last: Tensor, before: Tensor) -> Tensor:
        return torch.stack([before] * (times - 1) + [last], 1).flatten(0, 1)

    position, length = scheduler.numbers
    repeated = replace(
        scheduler,
        position=torch.stack([times * position + i for i in range(times)], 1).flatten(),
        length=rows(times * length, times * length),
        matrix=rows(scheduler.matrix, back),
        score_gain=rows(scheduler.score_gain, scheduler.score_gain * ratio.sqrt()),
        reads_noise=scheduler.reads_noise or times > 1,
        alpha=rows(scheduler.alpha, scheduler.alpha),
        sigma=rows(scheduler.sigma, scheduler.sigma),
        t=rows(scheduler.t, scheduler.t),
        log_variance=rows(scheduler.log_variance, scheduler.log_variance),
    )
    return Repeated(repeated, repeated.t.to(torch.float32))


def _check_repeatable(scheduler: Scheduler) -> None:
    """Raise ``ValueError`` for a table whose steps cannot be taken again."""
    if scheduler.joined:
        raise ValueError(
            "the scheduler is a table of several samplers, whose rows end in several places: repeat the steps of each "
            "sampler, and join the results with scheduler.join"
        )
    kept = scheduler.matrix[:, 1:].abs().sum() + scheduler.matrix[:, 0, 4:].abs().sum()
    if scheduler.learned or (has_values(kept) and bool(kept > 0)):
        raise ValueError(
            "a step can be taken again where the sampler keeps no values from step to step and learns no variance: "
            "use ddim or euler, or ddpm with a fixed variance"
        )


def _find_end(scheduler: Scheduler) -> Tensor:
    """α (1) where the last step ends: the part of x0 in x′, if x = αx0 + σε has the predicted x0."""
    import torch

    ends = scheduler.matrix[:, 0, 0] * scheduler.alpha + scheduler.matrix[:, 0, 1]
    # The last of them as a sum: an index would fix the number of rows of an exported graph.
    is_last = torch.cat([torch.zeros_like(ends), ends.new_ones(1)])[1:]
    return (ends * is_last).sum(0, keepdim=True)
