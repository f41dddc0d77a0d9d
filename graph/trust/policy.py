"""The policy: which files a workflow may read, write and load code from, for every way to run it.

A workflow is yours if you name its file, or a stranger's if it comes in a picture. A stranger's workflow reads only
files that ship with the package, writes only in its output folder, and loads no code. Yours may read and write any
file. Neither may overwrite files that ship with the package, or load code from a file that you did not allow.
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
from guidegraph.graph.paths import find_shipped_folders
from guidegraph.graph.port import Port
from guidegraph.graph.trust.effects import Effect, EffectKind, is_written, list_effects


@dataclass(frozen=True)
class Grants:
    """Files and folders that the user allows, with everything below them."""

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    code: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The permissions of a workflow.

    stranger: whether somebody else wrote it. out: the folder of its outputs. user_params: the parameters whose values
    come from the user, not from the stranger.
    """

    stranger: bool = False
    out: Path | None = None
    grants: Grants = field(default_factory=Grants)
    user_params: frozenset[str] = frozenset()


OWN_WORKFLOW = Policy()


def check_effects(ops: Mapping[str, Op], values: Mapping[str, Any], policy: Policy) -> None:
    """Raise ``WorkflowError`` if the policy forbids a file; it names each file, and the option that allows it."""
    if problems := find_effect_problems(list_effects(ops, values), policy):
        raise WorkflowError(problems)


def find_effect_problems(effects: Iterable[Effect], policy: Policy) -> list[Problem]:
    """The problems that ``check_effects`` raises."""
    problems = []
    for effect in effects:
        check, code = _CHECKS[effect.kind]
        if message := check(effect, policy):
            problems.append(Problem(effect.mark, code, message, effect.node))
    return problems


def is_shipped(path: Path) -> bool:
    """Whether a path, with links followed, ships with the package."""
    return _is_inside(path, find_shipped_folders())


def list_readable_folders(ops: Mapping[str, Op], policy: Policy) -> list[Path] | None:
    """The folders and files that a run may open after ``check_effects``, links followed; ``None`` if unrestricted.

    So a link in an allowed folder cannot lead outside it. ops: with the parameters' values inserted.
    """
    if not policy.stranger:
        return None
    effects = [effect.path for effect in list_effects(ops, {}) if effect.path is not None]
    folders = [*effects, *policy.grants.read, *policy.grants.write, *policy.grants.code, *find_shipped_folders()]
    return [*folders, *([policy.out] if policy.out else []), *map(Path, {sys.prefix, sys.base_prefix})]


def list_parameter_paths(ops: Mapping[str, Op], values: Mapping[str, Any], policy: Policy) -> tuple[Path, ...]:
    """The paths that the user passed to a stranger's workflow as parameters. Links below them are followed."""
    effects = list_effects(ops, values) if policy.user_params else []
    return tuple(effect.path for effect in effects if effect.path is not None and effect.param in policy.user_params)


def drop_dots(path: Path | None) -> Path | None:
    """The path without "..", if that names the same file; after a link it may not."""
    if path is None:
        return None
    normalised = Path(os.path.normpath(path))
    return normalised if os.path.realpath(normalised) == os.path.realpath(path) else path


def refuse_shipped(port: Port, path: Path) -> None:
    """Raise ``ValueError`` if a node would write a file that ships with the package."""
    if is_written(port) and is_shipped(path):
        raise ValueError(f"'{path}' ships with guidegraph and is read-only: write somewhere else")


def _check_read(effect: Effect, policy: Policy) -> str:
    if not policy.stranger:
        return ""
    if effect.path is None:
        return _describe_computed(effect, "read")
    if is_shipped(effect.path) or effect.param in policy.user_params:
        return ""
    if _is_inside(effect.path, (*policy.grants.read, *policy.grants.code)):
        return ""
    action = f"would read '{drop_dots(effect.path)}'; to allow it: {_list_options(effect, 'read', policy)}"
    return f"{_describe_subject(effect, policy)} {action}"


def _check_write(effect: Effect, policy: Policy) -> str:
    if effect.path is None:
        return _describe_computed(effect, "write") if policy.stranger else ""
    if is_shipped(effect.path):
        action = f"'{drop_dots(effect.path)}', which ships with guidegraph and is read-only"
        return f"{_describe_subject(effect, policy)} would write {action}"
    if not policy.stranger or _is_inside(effect.path, policy.grants.write):
        return ""
    if policy.out is not None and _is_inside(effect.path, [policy.out]):
        return ""
    exists = os.path.lexists(effect.path)
    if effect.param in policy.user_params and not exists:
        return ""
    location = "outside of --out" + (", where something is already" if exists else "")
    action = (
        f"would write '{drop_dots(effect.path)}', {location}; to allow it: {_list_options(effect, 'write', policy)}"
    )
    return f"{_describe_subject(effect, policy)} {action}"


def _check_code(effect: Effect, policy: Policy) -> str:
    if effect.path is None:
        return _describe_computed(effect, "load code from")
    if _is_inside(effect.path, policy.grants.code):
        return ""
    return (
        f"{_describe_subject(effect, policy)} would load '{drop_dots(effect.path)}', and loading such a file runs "
        f"code that it holds; if you trust it: --allow-code {_quote(effect.path)}"
    )


_CHECKS: Mapping[EffectKind, tuple[Callable[[Effect, Policy], str], str]] = {
    "read": (_check_read, "forbidden-read"),
    "write": (_check_write, "forbidden-write"),
    "code": (_check_code, "forbidden-code"),
}


def _describe_subject(effect: Effect, policy: Policy) -> str:
    owner = "this stranger's workflow" if policy.stranger else "the workflow"
    return f"{owner} ({effect.use}, {effect.setting})"


def _describe_computed(effect: Effect, verb: str) -> str:
    return (
        f"the workflow ({effect.use}, {effect.setting}) would {verb} a file whose path another node computes, so that "
        "it cannot be checked before the run: write the path in the workflow, or make it a parameter"
    )


def _list_options(effect: Effect, kind: str, policy: Policy) -> str:
    """The options that allow an effect, with the path quoted for a shell."""
    allow = f"--allow-{kind} {_quote(effect.path)}"
    if not effect.param:
        return allow
    return f"{allow}, or --set {effect.param}={'NEW_PATH' if effect.param in policy.user_params else 'PATH'}"


def _quote(path: Path | None) -> str:
    return shlex.quote(str(drop_dots(path)))


def _is_inside(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path is one of ``folders`` or below one, with links followed on both sides."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
