"""``@sampler``: a solver's rows for given levels become the operation ``scheduler.NAME``, with the shared settings."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from guidegraph_runtime.checks import check_int
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import (
    Clip,
    Fixed,
    Fraction,
    Levels,
    Positive,
    Range,
    Schedule,
    Scheduler,
    SchedulerState,
    Timesteps,
)
from guidegraph_runtime.tables import noise_levels
from guidegraph_runtime.tables.form import Form
from guidegraph_runtime.tables.noise_levels import NoiseSchedule, Rule, parse_levels, parse_schedule
from guidegraph_runtime.tables.rows import EPS, X0, K, Level, Row, stack_rows

SHARED_SETTINGS = """
Port levels: the levels to visit, from any levels node. Without it, the settings steps, spacing, offset, final, sigmas
and strength choose them within the timesteps that the schedule's model was trained on (trained_from … trained_to).

All settings that several samplers share:
steps: steps of the solver; some solvers take several model calls, and rows, per step. spacing: of the timesteps (Lin
et al. 2023, table 2), by default that of the sampler's reference implementation. offset: added to leading timesteps.
final: ᾱ after the last step, 1 or ᾱ_0. sigmas: σ/α as in the schedule at those timesteps, or spaced as in Karras et
al. (2022), or exponentially. clip: x̂0 is clipped to [−clip, clip] (true: 1). threshold: the quantile of dynamic
thresholding (Saharia et al. 2022), which divides x̂0 by it; for pictures in [-1, 1], as it leaves latents grey.
threshold_max: upper bound of this quantile. strength: run only this last fraction of the steps, rounded down but at
least one, for a start from a picture (scheduler.add_noise).

eta: how much of DDPM's noise a step adds, if the sampler has a choice; other samplers accept only their fixed value, so
that one can replace another.

rederive_eps: derive ε from the clipped x̂0.
"""
"""The ports and settings that several samplers share, for the documentation of their nodes."""

OUTPUT_HELP = {
    "steps": "the time of each of the model's calls, from noise to picture",
    "matrix": "the sampler's linear maps [x', s'] = M [x, x0, eps, noise, s1 … s4], one for each of the model's calls",
    "alpha": "how much of the picture is left at each call",
    "sigma": "how much noise there is at each call",
    "t": "the time of each call",
    "score_gain": "how much of a score is added at each call",
    "log_variance": "the logarithms of the least and the largest variance of each call",
    "position": "the number of each call, from 0",
    "length": "the number of calls",
    "index": "the row of the table with which to start: 0",
    "slots": "what the sampler keeps from call to call, at the start: zeros",
}

Start: TypeAlias = Literal["trained", "zero", "flow", "signal"]
"""Where default levels may start: at the last trained timestep, whatever signal is left there ("trained"); where signal
is left, or exactly at α = 0 if the schedule ends there ("zero"), or if it is a flow ("flow"); only where signal is
left, as the solver divides by α ("signal"): on a flow schedule, it begins with a step of Euler's from α = 0."""

Eta: TypeAlias = Annotated[float, Range(low=0, high=1)]
Deterministic: TypeAlias = Annotated[
    float,
    Fixed(
        0,
        "this sampler draws no noise, so eta is 0: use ddim, euler_ancestral or dpmpp_2m_sde for noise at each step",
    ),
]
Ancestral: TypeAlias = Annotated[
    float,
    Fixed(1, "DDPM is ancestral sampling, so eta is 1: use ddim, which is DDPM at eta 1, for less noise"),
]


class Sampler(NamedTuple):
    """The fields of a Scheduler and of a SchedulerState, and the times of its rows (R), float32."""

    scheduler: Scheduler
    steps: Timesteps
    state: SchedulerState


Solver = TypeVar("Solver", bound=Callable[..., list[Row]])


class SamplerTraits(NamedTuple):
    """What other code reads of a sampler.

    start: where its default levels may start. rising: whether it can go from the data to the noise, if eta is 0.
    level_settings: the names of its settings that choose levels, which are not read if levels are wired. follow:
    makes it for given levels (`_Recipe.follow`).
    """

    start: Start
    rising: bool
    level_settings: tuple[str, ...]
    follow: Callable[..., Sampler]


SAMPLERS: dict[str, SamplerTraits] = {}
"""The samplers by name."""


def sampler(
    rule: Rule,
    default_levels: Callable[..., list[Level]] = noise_levels.levels,
    *,
    start: Start = "signal",
    rising: bool = False,
    eta: Literal[0, 1] | None = None,
    rederives: bool = True,
    **defaults: Any,
) -> Callable[[Solver], Solver]:
    """Register a solver as the operation ``scheduler.NAME``; return it unchanged.

    The solver returns the rows of its table for `levels`. It may also take `noise`, the schedule, and `skipped`, the
    number of steps skipped by a start in the middle. Its keyword-only parameters are settings of its own.

    rule: how it interprets `spacing`. default_levels: chooses the levels if none are wired; its parameters after noise
    and rule are settings. start: where default levels may start. rising: whether the solver can go from the data to the
    noise, if eta is 0. eta: the only valid value of a setting eta that the solver does not take. rederives: whether it
    has the setting `rederive_eps`, because its rows read ε. defaults: of settings of `default_levels`.
    """

    def register(solver: Solver) -> Solver:
        name = solver.__name__
        inputs, own = _parameters_of(solver)
        *choosing, strength = _parameters_of_levels(default_levels, defaults)
        fixed = [] if eta is None else [_setting("eta", Ancestral if eta else Deterministic, float(eta))]
        settings = [*choosing, *fixed, *own, *(_CLIPPING if rederives else _CLIPPING[:-1]), strength]
        recipe = _Recipe(solver, inputs, own, rule, default_levels, [*choosing, strength], settings, start, rising)

        def build(schedule: Schedule, levels: Levels | None = None, **changed: Any) -> Sampler:
            return recipe.build(schedule, levels, changed)

        build.__name__, build.__doc__ = name, solver.__doc__
        build.__wrapped__ = solver  # type: ignore[attr-defined] # where the equations are
        _set_signature(build, settings)
        operation(f"scheduler.{name}", shape=table_shape, output_help=OUTPUT_HELP)(build)
        SAMPLERS[name] = SamplerTraits(start, rising, tuple([p.name for p in recipe.choosing]), recipe.follow)
        return solver

    return register


class _Recipe(NamedTuple):
    """The way from a schedule and settings to a sampler's table.

    inputs: the names of the solver's inputs. own, choosing: its settings, and those of `default_levels`.
    """

    solver: Callable[..., list[Row]]
    inputs: Sequence[str]
    own: Sequence[Parameter]
    rule: Rule
    default_levels: Callable[..., list[Level]]
    choosing: Sequence[Parameter]
    settings: Sequence[Parameter]
    start: Start
    rising: bool

    @property
    def preset(self) -> dict[str, Any]:
        """The defaults of all settings."""
        return {parameter.name: parameter.default for parameter in self.settings}

    def build(self, schedule: Schedule, levels: Levels | None, changed: Mapping[str, Any]) -> Sampler:
        noise, values = parse_schedule(schedule), self.preset | {**changed}
        if self.start != "trained":
            noise = noise.with_signal(zero=self.start == "zero")
        if levels is None:
            steps = noise.whole_times if values["steps"] is None else values["steps"]
            values["steps"] = steps
            visited = self.default_levels(noise, self.rule, *(values[p.name] for p in self.choosing))
            skipped = steps - (len(visited) - 1)
        else:
            visited, skipped = self._check_wired(parse_levels(levels), values, noise.form), 0
        return self.follow(noise, visited, values, skipped)

    def follow(
        self,
        noise: NoiseSchedule,
        visited: Sequence[Level],
        changed: Mapping[str, Any],
        skipped: int = 0,
        ends: Sequence[Level] | None = None,
    ) -> Sampler:
        """The sampler on these levels, of which `skipped` were left out before, as with a start from a picture.

        ends: where each step ends, if that is not where the next one starts, for a solver that remembers nothing.
        """
        values = self.preset | {**changed}
        if self.start in ("signal", "flow") and noise.form != "flow":
            require_signal(visited, self.solver.__name__)
        rows: list[Row] = []
        divides = self.start == "signal" and values.get("flow") != "comfyui"
        first = int(divides and visited[0].alpha == 0)  # the solver divides by α, and goes on from here
        if len(visited) > first + 1:
            own = {p.name: values[p.name] for p in self.own}
            for part in [visited[first:]] if ends is None else zip(visited, ends, strict=False):
                available = {"levels": part, "noise": noise, "skipped": skipped}
                rows += self.solver(*(available[name] for name in self.inputs), **own)
        if first:  # a step to where the solver starts, which is not visited[1] in a sampler that adds noise first
            start = rows[0].level if rows else visited[1]
            rows = [Row(visited[0], start.alpha * X0 + start.sigma * EPS), *rows]
        return _to_outputs(rows, values, noise.form)

    def _check_wired(self, levels: noise_levels.Levels, values: Mapping[str, Any], form: Form) -> list[Level]:
        """The wired levels. Raises ``ValueError`` if a setting that chooses levels is changed too."""
        if levels.form != form:
            raise ValueError(
                f"the levels are those of a schedule of form {levels.form}, and this schedule is {form}: wire one "
                "schedule to both nodes"
            )
        steps, preset = len(levels.t) - 1, self.preset
        for name in (parameter.name for parameter in self.choosing):
            if values[name] != preset[name] and not (name == "steps" and values[name] == steps):
                raise ValueError(
                    f"the sampler's levels are wired, so its setting {name} = {values[name]!r} would change nothing: "
                    f"leave it out, or set it at the levels' node (there are {steps} steps)"
                )
        if levels.ratio[0] < levels.ratio[-1] and not (self.rising and values.get("eta", 0) == 0):
            able = ", ".join(sorted(name for name, traits in SAMPLERS.items() if traits.rising))
            raise ValueError(
                "the levels go from the data to the noise, which this solver cannot: use one of these, with eta 0: "
                f"{able}"
            )
        return levels.to_list()


def require_signal(levels: Sequence[Level], solver: str) -> None:
    """Raise ``ValueError`` for levels that start at pure noise, α = 0, where σ/α is infinite."""
    if levels[0].alpha == 0:
        *others, last = sorted(name for name, traits in SAMPLERS.items() if traits.start in ("trained", "zero"))
        raise ValueError(
            f"{solver} works in x/α, and this schedule starts at α = 0 (zero terminal SNR); {', '.join(others)} and "
            f"{last} can start there"
        )


def _setting(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_PORTS = (
    Parameter("schedule", Parameter.POSITIONAL_OR_KEYWORD, annotation=Schedule),
    Parameter("levels", Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Levels | None),
)
_CLIPPING = (
    _setting("clip", Clip, False),
    _setting("threshold", Fraction | None, None),
    _setting("threshold_max", Positive | None, None),
    _setting("rederive_eps", bool, True),
)


def _parameters_of(solver: Callable[..., list[Row]]) -> tuple[list[str], list[Parameter]]:
    """The names of a solver's inputs, and its own settings with their annotations."""
    hints = typing.get_type_hints(solver, include_extras=True)
    parameters = signature(solver).parameters.values()
    inputs: list[str] = []
    own: list[Parameter] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            own.append(parameter.replace(annotation=hints[parameter.name]))
        else:
            inputs.append(parameter.name)
    return inputs, own


def _parameters_of_levels(default_levels: Callable[..., list[Level]], defaults: Mapping[str, Any]) -> list[Parameter]:
    """The settings that choose levels, strength last, with the defaults of a sampler."""
    hints = typing.get_type_hints(default_levels, include_extras=True)
    parameters = [*signature(default_levels).parameters.values()][2:]  # after noise and rule
    settings: list[Parameter] = []
    for parameter in parameters:
        name, default = parameter.name, defaults.get(parameter.name, parameter.default)
        annotation = hints[name] | None if default is None else hints[name]
        settings.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return settings


def _set_signature(function: Any, settings: Sequence[Parameter]) -> None:
    parameters = [*_PORTS, *settings]
    function.__signature__ = Signature(parameters, return_annotation=Sampler)
    function.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": Sampler}


def table_shape(steps: Any) -> tuple[int | None, ...]:
    """A lower bound on the shape of a table: at least one row per step, if their number is set."""
    return None if steps is None else check_int("steps", steps, low=1), 1 + K, 4 + K


def _to_outputs(rows: Sequence[Row], settings: Mapping[str, Any], form: Form) -> Sampler:
    """The table of a sampler, its times, and the state where it starts."""
    table = stack_rows(rows)
    clip = settings["clip"]
    # A row noises x̂0 again with ε if it reads ε, and neither x nor kept values, which hold parts of both.
    reads_others = table.matrix[:, 0, 0].any() or table.matrix[:, 0, 4:].any() or table.matrix[:, 1:].any()
    fields = {
        "clip": (1.0 if clip else None) if isinstance(clip, bool) else clip,
        "threshold": settings["threshold"],
        "threshold_max": settings["threshold_max"],
        "rederive_eps": settings.get("rederive_eps", True),
        "learned": settings.get("variance") == "learned",
        "reads_eps": bool(table.matrix[:, :, 2].any()),
        "renoisable": bool(table.matrix[:, 0, 2].any() and not reads_others),
        "reads_noise": bool(table.matrix[:, :, 3].any()),
        "reads_score": bool(table.score_gain.any()),
        "zero_snr": bool((table.alpha == 0).any()),
        "form": form,
        "joined": False,
    }
    state = {"index": np.zeros(1, dtype=np.int64), "slots": np.zeros(K, dtype=np.float32)}
    return Sampler(table._asdict() | fields, table.t.astype(np.float32), state)
