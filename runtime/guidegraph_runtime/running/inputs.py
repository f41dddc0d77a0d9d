"""Check the values of a bundle's inputs against its manifest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from guidegraph_runtime.admission import find_number_problem, is_infinite
from guidegraph_runtime.allowed_files import as_path
from guidegraph_runtime.bundle.manifest_types import FILE_TYPES, Input, Manifest
from guidegraph_runtime.errors import BundleError, format_value, suggest_name
from guidegraph_runtime.running.tensor_inputs import read_tensor_input

FLOAT_LIMIT = float(np.finfo(np.float32).max)
"""The graphs compute in float32."""


def resolve_inputs(
    manifest: Manifest, params: Mapping[str, Any], location: str, data: Callable[[str], bytes]
) -> dict[str, Any]:
    """Return a value for each input; for a file, its path or its bytes. data: reads a file of the bundle by name.

    A tensor becomes an array, whether it is given as an array or as a file. Raises ``BundleError`` for an input that is
    unknown, fixed, missing or of the wrong type.
    """
    check_names(params, "the inputs of a run by name, such as {'seed': 3}", location)
    for name in params:
        find_spec(manifest, name, location)
    values = {}
    for name, spec in manifest.inputs.items():
        if name in params:
            values[name] = check_value(name, spec, params[name], location)
        elif spec.required:
            help = f" ({spec.help})" if spec.help else ""
            message = f"'{name}' ({spec.type}) has no default and was not given{help}"
            raise BundleError(location, "missing-input", message, param=name)
        else:
            values[name] = load_value(spec, spec.default, data)
            if spec.type == "tensor" and values[name] is not None:
                values[name] = _tensor(name, spec, values[name], location)
    return values


def check_names(values: Any, expected: str, location: str) -> None:
    """Raise ``BundleError`` unless ``values`` is a mapping from texts."""
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise BundleError(location, "bad-value", f"expected {expected}, found {format_value(values)}")


def find_spec(manifest: Manifest, name: str, location: str) -> Input:
    """The description of an input. Raises ``BundleError`` for one that is unknown or fixed."""
    if name in manifest.fixed:
        message = f"'{name}' was fixed when the bundle was made: {manifest.fixed[name]}; export again to change it"
        raise BundleError(location, "fixed-input", message, param=name)
    if name not in manifest.inputs:
        message = f"no input '{name}'; {suggest_name(name, manifest.inputs)}"
        raise BundleError(location, "unknown-input", message, param=name)
    return manifest.inputs[name]


def load_value(spec: Input, value: Any, data: Callable[[str], bytes]) -> Any:
    """Convert a default or reference value for a run: names of the bundle's files become their bytes."""
    if spec.type not in FILE_TYPES or value is None:
        return _to_plain(value)
    return [data(name) for name in value] if isinstance(value, list) else data(value)


def _to_plain(value: Any) -> Any:
    """Copy nested lists and tuples as lists, and convert NumPy's arrays and numbers; return anything else unchanged."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return [_to_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _tensor(name: str, spec: Input, value: Any, location: str) -> Any:
    try:
        if spec.many and isinstance(value, (list, tuple)):
            array: Any = [read_tensor_input(name, spec, item) for item in value]
        else:
            array = read_tensor_input(name, spec, value)
    except ValueError as error:
        raise BundleError(location, "bad-value", str(error), param=name) from None
    if (reason := find_number_problem(array)) is not None:
        raise BundleError(location, "bad-value", f"'{name}': {reason}", param=name)
    return array


def check_value(name: str, spec: Input, value: Any, location: str) -> Any:
    """The value of an input, converted for a run. Raises ``BundleError`` for one that does not fit."""
    if spec.type == "tensor" and value is not None:
        return _tensor(name, spec, value, location)
    if isinstance(value, Path):
        value = str(value)
    try:
        value = _to_plain(value)
    except RecursionError:
        message = f"'{name}': its lists have too many levels"
        raise BundleError(location, "bad-value", message, param=name) from None
    if spec.type in FILE_TYPES:
        files = value if spec.many and isinstance(value, list) else [value]
        if files and all(isinstance(file, bytes) for file in files):
            return value
    if value is None and spec.takes_null:
        return None
    if spec.type == "float" and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            message = f"'{name}': expected a number up to 1.8e308, found a larger one"
            raise BundleError(location, "bad-value", message, param=name) from None
    if (expected := spec.wrong(value)) is not None:
        message = f"'{name}': expected {expected}, found {_describe_wrong(spec, value)}"
        raise BundleError(location, "bad-value", message, param=name)
    if (reason := find_number_problem(value, infinite=is_infinite(spec.default))) is not None:
        raise BundleError(location, "bad-value", f"'{name}': {reason}", param=name)
    if spec.type == "float" and (largest := _find_overflow(value)) is not None:
        message = f"'{name}': expected numbers from -{FLOAT_LIMIT:.2g} to {FLOAT_LIMIT:.2g}, found {largest!r}"
        raise BundleError(location, "bad-value", message, param=name)
    return as_path(value) if spec.type in FILE_TYPES else value


def _describe_wrong(spec: Input, value: Any) -> str:
    """The value that does not fit an input; of a list, its first element that does not."""
    if not spec.many or not isinstance(value, list):
        return f"{value!r:.80}"
    each = replace(spec, many=False)
    i = next(i for i, item in enumerate(value) if each.wrong(item) is not None)
    return f"{value[i]!r:.80} as element [{i}] of the list"


def _find_overflow(value: Any) -> float | None:
    """The first finite number of a value that float32, in which the graphs compute, cannot hold."""
    numbers = value if isinstance(value, list) else [value]
    overflows = (item for item in numbers if isinstance(item, float) and FLOAT_LIMIT < abs(item) < math.inf)
    return next(overflows, None)


def parse_input(name: str, spec: Input, text: str, location: str) -> Any:
    """Parse a value from the command line by the type of its input; a list is JSON.

    For a text that may be a list, it is one where the engine finds one: ``[oil painting] a tiger`` is a text. Raises
    ``BundleError`` for a value that is not of the type, and for a list that is not JSON.
    """
    if spec.type not in ("str", *FILE_TYPES):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            several = ", or a list as JSON" if spec.many else ""
            message = f"'{name}': expected {spec.wrong(text)}{several}, found {text!r:.80}"
            raise BundleError(location, "bad-value", message, param=name) from None
    if not spec.many or not text.startswith("["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if not is_bracketed(text):
            return text
    message = (
        f'\'{name}\': a list is JSON, such as ["a fox", "a house"], found {text!r:.80}; write a text in brackets as a '
        'list too: ["[a fox]"]'
    )
    raise BundleError(location, "bad-value", message, param=name)


_QUOTED = re.compile(r"""(?<=[\[,{:])\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')""", re.DOTALL)
"""A quoted entry of a list in YAML: a quote within a word is a character like others."""


def is_bracketed(text: str) -> bool:
    """Whether a text that begins with a bracket ends with the one that closes it, as a list in YAML does."""
    depth = 0
    bare = _QUOTED.sub("", text)
    for i, character in enumerate(bare):
        depth += (character in "[{") - (character in "]}")
        if depth == 0:
            after = bare[i + 1 :]
            return not after.strip() or (after[0].isspace() and after.lstrip().startswith("#"))
    return False
