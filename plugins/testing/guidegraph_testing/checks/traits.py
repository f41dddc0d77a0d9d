"""The traits ``needs=`` and ``identity=`` of a node are correct."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from guidegraph.graph.types import is_tensor
from guidegraph_testing.arguments import (
    Arguments,
    call_node,
    call_or_none,
    literal_choices,
    make_arguments,
    perturb,
    vary_settings,
    wire_optional_ports,
)
from guidegraph_testing.case import NodeCase, Nonconforming
from guidegraph_testing.comparison import difference, rounding_tolerance

USUAL: tuple[Any, ...] = (0, 1, 0.0, 1.0, False, True, 0.5, 2.0, "", None)
LIMIT = 400
"""The maximum number of combinations of settings to try."""
_UNREAD = "name '{}' in needs=, or compute without it there: the engine does not compute it"


def check_identity(case: NodeCase) -> None:
    """If ``identity=`` names a port, the node returns the value of that port."""
    spec = case.spec
    assert spec.identity is not None, "the check applies where identity= is declared"
    port_found = False
    for settings in _combinations(case, spec.identity_settings):
        port = _evaluate_trait(case, "identity", spec.identity, settings)
        if port is None:
            continue
        if port not in spec.inputs:
            ports = ", ".join(spec.inputs)
            raise case.error("identity= to name a port", f"'{port}'", f"name one of its ports: {ports}")
        args = make_arguments(case.having(**settings))
        if port not in args.ports:
            continue
        port_found = True
        (output,) = list(call_node(case, args).values())[:1]
        error = difference(output, args.ports[port])
        if error > rounding_tolerance(args.ports[port]):
            raise case.error(
                f"port '{port}' unchanged under {_format_settings(settings)}, as identity= says",
                f"a result that differs from it by {error:.1e}",
                "correct identity=, or what the node computes there: the engine leaves the node out",
            )
    if port_found:
        return
    tried = ", ".join(spec.identity_settings)
    raise case.error(
        "settings under which identity= names a port",
        f"none among the usual values of {tried}",
        "give them: NodeCase(…, tries={'setting': [value]}); or take identity= away",
    )


def check_needs(case: NodeCase) -> None:
    """A port omitted by ``needs=`` does not affect the result."""
    spec = case.spec
    assert spec.needs is not None, "the check applies where needs= is declared"
    port_omitted = False
    for settings in _combinations(case, spec.needs_arguments):
        needed = _evaluate_trait(case, "needs", spec.needs, settings)
        if unknown := [name for name in needed if name not in spec.inputs]:
            ports = ", ".join(spec.inputs)
            raise case.error("needs= to name ports", f"'{unknown[0]}'", f"name some of its ports: {ports}")
        args = make_arguments(case.having(**settings))
        wired = [(args, name) for name in args.ports if name not in needed]
        wired += [(more, name) for name, more in wire_optional_ports(case, args) if name not in needed]
        for variant, name in wired:
            port_omitted = True
            _check_unread(case, variant, name, needed, settings)
    if not port_omitted:
        raise case.error(
            "values under which needs= leaves out a port",
            f"none among the usual values of {', '.join(spec.needs_arguments)}",
            "give them: NodeCase(…, tries={'name': [value]}); or take needs= away",
        )


def _check_unread(case: NodeCase, args: Arguments, name: str, needed: Iterable[str], settings: dict[str, Any]) -> None:
    """Raise ``Nonconforming`` if the result depends on a port that `needs=` omits under these settings.

    Settings that `needs=` does not take must not matter, so their other values are tried too.
    """
    changes = vary_settings(case, args, numbers=True)
    ignored_changes = [
        (description, other)
        for description, other in changes
        if description.partition(" = ")[0] not in case.spec.needs_arguments
    ]
    try:
        expected = call_node(case, args)
    except Nonconforming as error:
        raise case.error(
            f"port '{name}' unread under {_format_settings(settings)}, as needs= says",
            error.found,
            _UNREAD.format(name),
        ) from error
    _check_independent(case, args, name, needed, _format_settings(settings), expected)
    for description, other in ignored_changes:
        if (outputs := call_or_none(case, other)) is not None:
            _check_independent(case, other, name, needed, f"{_format_settings(settings)}, {description}", outputs)


def _check_independent(
    case: NodeCase, args: Arguments, name: str, needed: Iterable[str], settings: str, expected: dict[str, Any]
) -> None:
    remedy, ports = _UNREAD.format(name), case.spec.inputs
    alike = [args.ports[n] for n in needed if n in args.ports and ports[n].type == ports[name].type]
    stand_ins = alike or [None]  # as the engine takes them
    for other in (perturb(args.ports[name]), *stand_ins):
        try:
            outputs = call_node(case, args.with_port(name, other))
        except Nonconforming as error:
            raise case.error(f"port '{name}' unread under {settings}, as needs= says", error.found, remedy) from error
        deviation = difference(outputs, expected)
        if deviation > rounding_tolerance(expected):
            raise case.error(
                f"a result that does not depend on port '{name}' under {settings}, as needs= says",
                f"it changes by {deviation:.1e} when '{name}' does",
                remedy,
            )


def _combinations(case: NodeCase, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Combinations of settings and ports to try; the values of the case come first."""
    spec = case.spec
    examples = make_arguments(case).ports
    options = []
    for name in names:
        if name in spec.inputs:
            options.append([*([examples[name]] if name in examples else []), *case.tries.get(name, ())])
            continue
        port = spec.settings[name]
        own = [case.settings[name]] if name in case.settings else []
        default = [] if port.required else [port.default]
        values: list[Any] = []
        for value in (*own, *case.tries.get(name, ()), *default, *literal_choices(port.annotation), *USUAL):
            if is_tensor(value) or not any(
                type(value) is type(combination) and value == combination for combination in values
            ):
                values += [value] if _is_allowed(port, value) else []
        options.append(values)
    yield from (
        {**dict(zip(names, combination, strict=True))}
        for combination in itertools.islice(itertools.product(*options), LIMIT)
    )


def _is_allowed(port: Any, value: Any) -> bool:
    try:
        checked = port.check(value)
    except ValueError:
        return False
    return is_tensor(value) or (type(checked) is type(value) and bool(checked == value))


def _evaluate_trait(case: NodeCase, trait: str, function: Callable[..., Any], settings: dict[str, Any]) -> Any:
    try:
        return function(**settings)
    except Exception as error:
        raise case.error(
            f"{trait}= to answer for {_format_settings(settings)}",
            f"{type(error).__name__}: {error}",
            f"make {trait}= a function of values that are allowed, without exceptions",
        ) from error


def _format_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value!r:.30}" for name, value in settings.items()) or "any settings"
