"""Values for a bundle's inputs: checked against what it says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from guidegraph_runtime.admission import is_infinite, number_problem
from guidegraph_runtime.errors import BundleError, one_of
from guidegraph_runtime.manifest_types import FILE_TYPES, Input, Manifest
from guidegraph_runtime.trust import given_file


def given_inputs(
    manifest: Manifest, params: Mapping[str, Any], where: str, data: Callable[[str], bytes]
) -> dict[str, Any]:
    """A value for each input; for a file, its path or its bytes. One that the bundle carries is ``data`` of its name.

    A tensor is an array, whether it was given as one or as a file.

    Raises ``BundleError`` for an input that there is not, that is fixed, missing, or of another type.
    """
    for name in params:
        if name in manifest.fixed:
            message = f"'{name}' was fixed when the bundle was made: {manifest.fixed[name]}; export again to change it"
            raise BundleError(where, "fixed-input", message)
        if name not in manifest.inputs:
            raise BundleError(where, "unknown-input", f"no input '{name}'; {one_of(name, manifest.inputs)}")
    values = {}
    for name, one in manifest.inputs.items():
        if name in params:
            values[name] = _checked(name, one, params[name], where)
        elif one.required:
            help = f" ({one.help})" if one.help else ""
            raise BundleError(where, "missing-input", f"'{name}' ({one.type}) has no default and was not given{help}")
        else:
            values[name] = carried(one, one.default, data)
            if one.type == "tensor" and values[name] is not None:
                values[name] = _tensor(name, one, values[name], where)
    return values


def carried(one: Input, value: Any, data: Callable[[str], bytes]) -> Any:
    """A default, or a value of the reference, as a run takes it: files of the bundle are their bytes."""
    if one.type not in FILE_TYPES or value is None:
        return _own(value)
    return [data(name) for name in value] if isinstance(value, list) else data(value)


def _own(value: Any) -> Any:
    """A list, and those in it, as lists of their own; anything else as it is."""
    return [_own(item) for item in value] if isinstance(value, list) else value


def _tensor(name: str, one: Input, value: Any, where: str) -> Any:
    from guidegraph_runtime.arrays import tensor_input

    try:
        if one.many and isinstance(value, (list, tuple)):
            found: Any = [tensor_input(name, one, each) for each in value]
        else:
            found = tensor_input(name, one, value)
    except ValueError as error:
        raise BundleError(where, "bad-value", str(error)) from None
    if (reason := number_problem(found)) is not None:
        raise BundleError(where, "bad-value", f"'{name}': {reason}")
    return found


def _checked(name: str, one: Input, value: Any, where: str) -> Any:
    if one.type == "tensor" and value is not None:
        return _tensor(name, one, value, where)
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    value = _own(value)
    if one.type in FILE_TYPES and _are_bytes(value, one.many):
        return value
    if value is None and not one.required and one.default is None:
        return None
    if one.type == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if (expected := one.wrong(value)) is not None:
        raise BundleError(where, "bad-value", f"'{name}': expected {expected}, found {value!r:.80}")
    if (reason := number_problem(value, infinite=is_infinite(one.default))) is not None:
        raise BundleError(where, "bad-value", f"'{name}': {reason}")
    if one.choices is not None and value not in one.choices:
        raise BundleError(where, "bad-value", f"'{name}': {one_of(str(value), map(str, one.choices))}")
    return given_file(value) if one.type in FILE_TYPES else value


def _are_bytes(value: Any, many: bool) -> bool:
    return isinstance(value, bytes) or (
        many and isinstance(value, list) and bool(value) and all(isinstance(one, bytes) for one in value)
    )


def from_text(name: str, one: Input, text: str, where: str) -> Any:
    """A value that was written on a command line, read by its input's type; a list as JSON."""
    if one.many and text.lstrip().startswith("["):
        return _json(name, text, where)
    if one.type in ("str", *FILE_TYPES):
        return text
    return _json(name, text, where)


def _json(name: str, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BundleError(where, "bad-value", f"'{name}': no number, true, false or list: {text!r:.80}") from None
