"""Samplers. Each node computes a table, once, and scheduler.step applies it row by row."""

from __future__ import annotations

from collections.abc import Callable, Collection
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, NamedTuple

from guidegraph.nodes.derive import node_from_operation, to_runtime
from guidegraph.nodes.types import Scheduler, SchedulerState, Timesteps
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.samplers.sampler import SAMPLERS, SHARED_SETTINGS

__doc__ = f"{__doc__}\n{SHARED_SETTINGS}"


class Sampler(NamedTuple):
    scheduler: Scheduler
    steps: Timesteps
    state: SchedulerState


def make_sampler_check(name: str) -> Callable[..., dict[str, str]]:
    """A check of a sampler's settings, which returns problems by name.

    It refuses settings that choose levels although levels are wired. Once everything is known, it computes the table.
    """
    operation, level_settings = OPERATIONS[f"scheduler.{name}"], SAMPLERS[name].level_settings

    def check(wired: Collection[str], **arguments: Any) -> dict[str, str]:
        if "levels" in wired and (unread := [setting for setting in level_settings if setting in wired]):
            message = "the levels are wired, so it would change nothing: leave it out, or set it at the levels' node"
            return dict.fromkeys(unread, message)
        if len(arguments) < len(operation.signature.parameters):  # some values are not known yet
            return {}
        try:
            operation(**{argument: to_runtime(value) for argument, value in arguments.items()})
        except ValueError as error:
            return {"steps" if arguments["levels"] is None else "schedule": str(error)}
        return {}

    parameters = [Parameter("wired", Parameter.POSITIONAL_OR_KEYWORD)]
    for key in operation.signature.parameters:
        parameters.append(Parameter(key, Parameter.KEYWORD_ONLY, default=None))
    check.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return check


SPACED_ON_FLOWS = frozenset(
    ["lcm", "tcd", "ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2s", "deis", "pndm", "unipc"]
)
"""Samplers of version 2: `sigmas: karras` and `exponential` on a shifted flow end at the shifted 1/T since then."""

for _name in SAMPLERS:
    globals()[_name] = node_from_operation(
        f"scheduler.{_name}",
        __name__,
        outputs=Sampler,
        check=make_sampler_check(_name),
        version=2 if _name in SPACED_ON_FLOWS else 1,
    )


if TYPE_CHECKING:  # the nodes that were defined above

    def __getattr__(name: str) -> Callable[..., Sampler]: ...
