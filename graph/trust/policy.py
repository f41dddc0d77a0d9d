"""The policy: what a workflow may read, write and load code from. It is decided here, for every way to run one.

A workflow is yours, when you name its file, or a stranger's, when it comes in a picture. A stranger's workflow reads
what ships with the package, writes below the folder of its outputs, and loads no code. Yours reads and writes where it
says. Neither overwrites what ships with the package, and neither loads code from a file that you did not allow.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Op
from guidegraph.graph.node import Port
from guidegraph.graph.paths import shipped_folders
from guidegraph.graph.trust.effects import Effect, Kind, list_effects, writes


@dataclass(frozen=True)
class Grants:
    """Files and folders that the person allows, each with all that lies below it."""

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    code: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Policy:
    """What a workflow may do.

    stranger: whether somebody else wrote it. out: the folder of its outputs. given: the parameters whose values are
    the person's own, not the stranger's.
    """

    stranger: bool = False
    out: Path | None = None
    grants: Grants = field(default_factory=Grants)
    given: frozenset[str] = frozenset()


YOURS = Policy()


def check_effects(ops: Mapping[str, Op], values: Mapping[str, Any], policy: Policy) -> None:
    """Raise ``WorkflowError`` that names each file which the policy does not allow, and how to allow it."""
    if problems := effect_problems(list_effects(ops, values), policy):
        raise WorkflowError(problems)


def effect_problems(effects: Iterable[Effect], policy: Policy) -> list[Problem]:
    """What ``check_effects`` raises."""
    problems = []
    for effect in effects:
        decide, code = _DECISIONS[effect.kind]
        if message := decide(effect, policy):
            problems.append(Problem(effect.mark, code, message, effect.node))
    return problems


def is_shipped(path: Path) -> bool:
    """Whether a path lies in what ships with the package, links followed."""
    return _lies_in(path, shipped_folders())


def readable_folders(ops: Mapping[str, Op], policy: Policy) -> list[Path] | None:
    """What a run that ``check_effects`` passed may open, with all links followed: ``None`` for all.

    So a link in a folder that was allowed opens nothing outside of it. ops: with the parameters' values in place.
    """
    if not policy.stranger:
        return None
    effects = [effect.path for effect in list_effects(ops, {}) if effect.path is not None]
    folders = [*effects, *policy.grants.read, *policy.grants.write, *policy.grants.code, *shipped_folders()]
    return [*folders, *([policy.out] if policy.out else []), *map(Path, {sys.prefix, sys.base_prefix})]


def given_paths(ops: Mapping[str, Op], values: Mapping[str, Any], policy: Policy) -> tuple[Path, ...]:
    """The paths of parameters that the person gave to a stranger's workflow. Links below them are followed."""
    effects = list_effects(ops, values) if policy.given else []
    return tuple(effect.path for effect in effects if effect.path is not None and effect.param in policy.given)


def without_dots(path: Path | None) -> Path | None:
    """A path without its "..", where that names the same file: behind a link it need not."""
    if path is None:
        return None
    short = Path(os.path.normpath(path))
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def refuse_shipped(port: Port, path: Path) -> None:
    """Raise ``ValueError`` where a node would write what ships with the package."""
    if writes(port) and is_shipped(path):
        raise ValueError(f"'{path}' ships with guidegraph and is read-only: write somewhere else")


def _read(effect: Effect, policy: Policy) -> str:
    if not policy.stranger:
        return ""
    if effect.path is None:
        return _computed(effect, "read")
    if is_shipped(effect.path) or effect.param in policy.given:
        return ""
    if _lies_in(effect.path, (*policy.grants.read, *policy.grants.code)):
        return ""
    what = f"would read '{without_dots(effect.path)}'; to allow it: {_ways(effect, 'read', policy)}"
    return f"{_subject(effect, policy)} {what}"


def _write(effect: Effect, policy: Policy) -> str:
    if effect.path is None:
        return _computed(effect, "write") if policy.stranger else ""
    if is_shipped(effect.path):
        what = f"'{without_dots(effect.path)}', which ships with guidegraph and is read-only"
        return f"{_subject(effect, policy)} would write {what}"
    if not policy.stranger or _lies_in(effect.path, policy.grants.write):
        return ""
    if policy.out is not None and _lies_in(effect.path, [policy.out]):
        return ""
    exists = os.path.lexists(effect.path)
    if effect.param in policy.given and not exists:
        return ""
    where = "outside of --out" + (", where something is already" if exists else "")
    what = f"would write '{without_dots(effect.path)}', {where}; to allow it: {_ways(effect, 'write', policy)}"
    return f"{_subject(effect, policy)} {what}"


def _code(effect: Effect, policy: Policy) -> str:
    if effect.path is None:
        return _computed(effect, "load code from")
    if _lies_in(effect.path, policy.grants.code):
        return ""
    return (
        f"{_subject(effect, policy)} would load '{without_dots(effect.path)}', and loading such a file runs code that "
        f"it holds; if you trust it: --allow-code {_quoted(effect.path)}"
    )


_DECISIONS: Mapping[Kind, tuple[Callable[[Effect, Policy], str], str]] = {
    "read": (_read, "forbidden-read"),
    "write": (_write, "forbidden-write"),
    "code": (_code, "forbidden-code"),
}


def _subject(effect: Effect, policy: Policy) -> str:
    whose = "this stranger's workflow" if policy.stranger else "the workflow"
    return f"{whose} ({effect.use}, {effect.setting})"


def _computed(effect: Effect, verb: str) -> str:
    return (
        f"the workflow ({effect.use}, {effect.setting}) would {verb} a file whose path another node computes, so that "
        "it cannot be checked before the run: write the path down, or make it a parameter"
    )


def _ways(effect: Effect, kind: str, policy: Policy) -> str:
    """The options that allow an effect, to be copied: a shell takes the path for nothing but a path."""
    allow = f"--allow-{kind} {_quoted(effect.path)}"
    if not effect.param:
        return allow
    return f"{allow}, or --set {effect.param}={'NEW_PATH' if effect.param in policy.given else 'PATH'}"


def _quoted(path: Path | None) -> str:
    return shlex.quote(str(without_dots(path)))


def _lies_in(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path is one of ``folders``, or lies below one, with all links followed on both sides."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
