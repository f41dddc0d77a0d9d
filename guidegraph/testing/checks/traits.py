"""What ``needs=`` and ``identity=`` say of a node is so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from guidegraph.graph.types import is_tensor
from guidegraph.testing.alternatives import choices, other_settings, outputs_or_none, with_optional_ports
from guidegraph.testing.case import NodeCase
from guidegraph.testing.outcome import Nonconforming
from guidegraph.testing.values import Arguments, arguments, call, changed, difference, rounding

USUAL: tuple[Any, ...] = (0, 1, 0.0, 1.0, False, True, 0.5, 2.0, "", None)
LIMIT = 400
"""How many combinations of settings are tried."""
_UNREAD = "name '{}' in needs=, or compute without it there: the engine does not compute it"


def check_identity(case: NodeCase) -> None:
    """Where ``identity=`` names a port, the node gives what is wired there."""
    spec = case.spec
    assert spec.identity is not None, "the check applies where identity= is declared"
    named = False
    for settings in _combinations(case, spec.identity_settings):
        port = _asked(case, "identity", spec.identity, settings)
        if port is None:
            continue
        if port not in spec.inputs:
            known = ", ".join(spec.inputs)
            raise case.error("identity= to name a port", f"'{port}'", f"name one of its ports: {known}")
        given = arguments(case.having(**settings))
        if port not in given.ports:
            continue
        named = True
        (found,) = list(call(case, given).values())[:1]
        apart = difference(found, given.ports[port])
        if apart > rounding(given.ports[port]):
            raise case.error(
                f"port '{port}' unchanged under {_shown(settings)}, as identity= says",
                f"a result that differs from it by {apart:.1e}",
                "correct identity=, or what the node computes there: the engine leaves the node out",
            )
    if named:
        return
    tried = ", ".join(spec.identity_settings)
    raise case.error(
        "settings under which identity= names a port",
        f"none among the usual values of {tried}",
        "give them: NodeCase(…, tries={'setting': [value]}); or take identity= away",
    )


def check_needs(case: NodeCase) -> None:
    """A port that ``needs=`` leaves out does not change the result."""
    spec = case.spec
    assert spec.needs is not None, "the check applies where needs= is declared"
    left_out = False
    for settings in _combinations(case, spec.needs_arguments):
        needed = _asked(case, "needs", spec.needs, settings)
        if unknown := [name for name in needed if name not in spec.inputs]:
            known = ", ".join(spec.inputs)
            raise case.error("needs= to name ports", f"'{unknown[0]}'", f"name some of its ports: {known}")
        given = arguments(case.having(**settings))
        wired = [(given, name) for name in given.ports if name not in needed]
        wired += [(more, name) for name, more in with_optional_ports(case, given) if name not in needed]
        for each, name in wired:
            left_out = True
            _unread(case, each, name, needed, settings)
    if not left_out:
        raise case.error(
            "values under which needs= leaves out a port",
            f"none among the usual values of {', '.join(spec.needs_arguments)}",
            "give them: NodeCase(…, tries={'name': [value]}); or take needs= away",
        )


def _unread(case: NodeCase, given: Arguments, name: str, needed: Iterable[str], settings: dict[str, Any]) -> None:
    """Raises ``Nonconforming`` where the result depends on a port that `needs=` leaves out under these settings.

    What `needs=` does not ask for must not matter: other settings are tried too.
    """
    changes = other_settings(case, given, numbers=True)
    asked = [(what, other) for what, other in changes if what.partition(" = ")[0] not in case.spec.needs_arguments]
    try:
        expected = call(case, given)
    except Nonconforming as error:
        raise case.error(
            f"port '{name}' unread under {_shown(settings)}, as needs= says", error.found, _UNREAD.format(name)
        ) from error
    _same_without(case, given, name, needed, _shown(settings), expected)
    for what, other in asked:
        if (otherwise := outputs_or_none(case, other)) is not None:
            _same_without(case, other, name, needed, f"{_shown(settings)}, {what}", otherwise)


def _same_without(
    case: NodeCase, given: Arguments, name: str, needed: Iterable[str], settings: str, expected: dict[str, Any]
) -> None:
    remedy = _UNREAD.format(name)
    for other in _others(case, given, name, needed):
        try:
            found = call(case, given.with_port(name, other))
        except Nonconforming as error:
            raise case.error(f"port '{name}' unread under {settings}, as needs= says", error.found, remedy) from error
        apart = difference(found, expected)
        if apart > rounding(expected):
            raise case.error(
                f"a result that does not depend on port '{name}' under {settings}, as needs= says",
                f"it changes by {apart:.1e} when '{name}' does",
                remedy,
            )


def _others(case: NodeCase, given: Arguments, name: str, needed: Iterable[str]) -> Iterator[Any]:
    """Another value, and what the engine puts there: the value of a needed port of the same type, or None."""
    yield changed(given.ports[name])
    ports = case.spec.inputs
    alike = [given.ports[n] for n in needed if n in given.ports and ports[n].type == ports[name].type]
    yield from alike or [None]


def _combinations(case: NodeCase, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Values to try: those of the case, then all combinations of what each setting or port may be."""
    spec = case.spec
    examples = arguments(case).ports
    options = []
    for name in names:
        if name in spec.inputs:
            options.append([*([examples[name]] if name in examples else []), *case.tries.get(name, ())])
            continue
        port = spec.settings[name]
        given = [case.settings[name]] if name in case.settings else []
        default = [] if port.required else [port.default]
        found: list[Any] = []
        for value in (*given, *case.tries.get(name, ()), *default, *choices(port.annotation), *USUAL):
            if is_tensor(value) or not any(type(value) is type(one) and value == one for one in found):
                found += [value] if _allowed(port, value) else []
        options.append(found)
    yield from ({**dict(zip(names, one, strict=True))} for one in itertools.islice(itertools.product(*options), LIMIT))


def _allowed(port: Any, value: Any) -> bool:
    try:
        checked = port.check(value)
    except ValueError:
        return False
    return is_tensor(value) or (type(checked) is type(value) and bool(checked == value))


def _asked(case: NodeCase, trait: str, function: Callable[..., Any], settings: dict[str, Any]) -> Any:
    try:
        return function(**settings)
    except Exception as error:
        raise case.error(
            f"{trait}= to answer for {_shown(settings)}",
            f"{type(error).__name__}: {error}",
            f"make {trait}= a function of values that are allowed, without exceptions",
        ) from error


def _shown(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value!r:.30}" for name, value in settings.items()) or "any settings"
