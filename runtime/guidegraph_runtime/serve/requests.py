"""A request to draw with a bundle, and the refusal of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_REMEDY = re.compile(r"\. If [a-z ]+, raise (it|the limit).*")
"""The end of a message about a limit, for the person who may raise it."""


@dataclass(frozen=True)
class DrawRequest:
    """A request to a bundle.

    nodes: overrides by ``node.setting``. deadline: seconds from now; None for the longest. is_watched: whether anybody
    may look at its previews: the id of a job that is waited for is not known before its end. partials: how many
    pictures of the unfinished sample its client wants. work: its iterations times its samples, by which a front
    chooses a replica.
    """

    bundle: str
    params: Mapping[str, Any]
    nodes: Mapping[str, Any] | None = None
    priority: int = 0
    deadline: float | None = None
    is_watched: bool = False
    partials: int = 0
    work: int = 1


class RequestRefused(Exception):
    """A request that is not queued. status: of the answer over HTTP. param: the parameter that is wrong.

    retry_after: seconds after which it may be sent again.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str = "bad-request", status: int = 400, retry_after: int = 0
    ):
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.retry_after = message, param, code, status, retry_after


def describe_steps(count: int, allowed: int) -> str:
    """The message about a request of too many steps."""
    return f"it takes {count} steps, and this server allows {allowed}"


def drop_remedy(message: str) -> str:
    """A message about a limit without the advice to raise it, which a client cannot follow."""
    return _REMEDY.sub("", message)
