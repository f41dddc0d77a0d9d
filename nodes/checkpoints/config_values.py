"""Reads a foreign config.yaml: its text by a safe loader within limits, and each value with its type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any

import yaml

from guidegraph.graph.trust.file_checks import read_regular

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
"""Most values and keys of a document, with aliases expanded: 1 KiB of aliases can stand for 9⁹ values."""

MAX_SIZE = 1 << 16
"""Largest number of channels, heads or blocks that is accepted."""

REPAIR = "repair it, or name another with `config` of checkpoint.load"

_repr = Repr()
_repr.maxstring = _repr.maxother = 100
_repr.maxlist = _repr.maxdict = _repr.maxtuple = 12
_repr.maxlevel = 3
LONGEST_TEXT = 400


class UnreadableYaml(ValueError):
    """A file that is not YAML, or that a safe loader refuses: it has custom tags, or is too large."""


def format_value(value: object) -> str:
    """Format a value of a file for a message, cut to a few hundred characters."""
    try:
        text = _repr.repr(value)
    except ValueError:  # Python does not print integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def load_yaml(path: Path) -> object:
    """Load a YAML file of at most 1 MiB with a safe loader.

    Raises ``ValueError`` if the file is missing, and ``UnreadableYaml`` that names it if it is too large, in bytes or
    with its aliases expanded, or not plain YAML.
    """
    if not path.is_file():
        raise ValueError(f"there is no file '{path}': name the config.yaml of the model")
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableYaml(f"'{path}' has {path.stat().st_size} bytes, and a model's config.yaml at most {MAX_BYTES}")
    loader_type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loader = loader_type(read_regular(path))
        document = loader.get_single_node()
        if document is None:
            return None
        if _count_nodes(document, {}) > MAX_NODES:
            raise UnreadableYaml(
                f"'{path}' has more than {MAX_NODES} values with its aliases written out, or one inside itself: "
                "write it without aliases"
            )
        return loader.construct_document(document)
    except UnreadableYaml:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:  # PyYAML lets int's and date's out
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreadableYaml(f"'{path}' is not plain YAML ({reason:.200}): repair or remove it") from None


def _count_nodes(node: Any, counts: dict[int, int]) -> int:
    """Count the nodes of a document with aliases expanded; above `MAX_NODES` if an alias contains itself."""
    if id(node) in counts:
        return counts[id(node)]
    if not isinstance(node.value, list):
        return 1
    counts[id(node)] = MAX_NODES + 1  # for an alias to the node inside itself
    total = 1
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            total += _count_nodes(part, counts)
    counts[id(node)] = total
    return total


def read_integer(
    params: Mapping[str, Any], name: str, default: int | None, path: Path, low: int = 1, high: int = MAX_SIZE
) -> int:
    """Read an integer from `low` to `high`, or the default if the file has none. Raises ``ValueError``."""
    value = params.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise _wrong(path, name, value, f"a whole number from {low} to {high}")


def read_number(params: Mapping[str, Any], name: str, default: float, path: Path, high: float = 1e6) -> float:
    """Read a number above 0, up to `high`; also from text, as YAML 1.1 reads `1e-4`. Raises ``ValueError``."""
    value = params.get(name, default)
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if 0 < number <= high:
        return number
    raise _wrong(path, name, value, f"a number above 0, to {high:g}")


def read_signed(params: Mapping[str, Any], name: str, path: Path, high: float = 1e6) -> float:
    """Read a number from −`high` to `high`. Raises ``ValueError``."""
    value = params.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and -high <= value <= high:
        return float(value)
    raise _wrong(path, name, value, f"a number from {-high:g} to {high:g}")


def read_numbers(
    params: Mapping[str, Any],
    name: str,
    default: Sequence[float] | None,
    path: Path,
    *,
    integers: bool = False,
    least: int = 1,
) -> tuple[float, ...]:
    """Read a list of at least `least` numbers above 0, up to 65,536; integers: only integers. Raises ``ValueError``."""
    values = params.get(name, default)
    if isinstance(values, list | tuple) and len(values) >= least and all(is_size(value, integers) for value in values):
        return tuple(values)
    raise _wrong(path, name, values, f"a list of {'whole ' if integers else ''}numbers above 0, to {MAX_SIZE}")


def is_size(value: object, integers: bool) -> bool:
    """Whether a value is a number above 0, up to 65,536; integers: only an integer."""
    if isinstance(value, bool) or not isinstance(value, int if integers else int | float):
        return False
    return bool(0 < value <= MAX_SIZE)  # and so no NaN


def read_flag(params: Mapping[str, Any], name: str, default: bool, path: Path) -> bool:
    """Read true or false. Raises ``ValueError``."""
    value = params.get(name, default)
    if isinstance(value, bool):
        return value
    raise _wrong(path, name, value, "true or false")


def read_choice(params: Mapping[str, Any], name: str, default: str, path: Path, choices: Sequence[str]) -> str:
    """Read one of several names. Raises ``ValueError``."""
    value = params.get(name, default)
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"'{path}': '{name}' is {format_value(value)}; supported are {', '.join(choices)}: {REPAIR}")


def _wrong(path: Path, name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"'{path}': '{name}' is {format_value(value)}; expected {expected}: {REPAIR}")


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def numbers_in_names(names: Iterable[str], pattern: str) -> set[int]:
    """The numbers that a pattern's only group matches at the start of names."""
    expression = re.compile(pattern)
    return {int(match[1]) for name in names if (match := expression.match(name))}
