"""The operations, inputs, element types and tokenizers that the page supports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from guidegraph_runtime.bundle.manifest_types import Input, Operation, Part, walk_operations

PAGE_OPERATIONS = frozenset({"noise.gaussian", "text.tokenize", "label.constant", "image.from_sample", "image.grid"})
"""The operations in static/operations.js."""
PAGE_DTYPES = frozenset({"bool", "int32", "int64", "uint64", "float32", "float64"})
"""The element types in static/tensors.js."""
PAGE_INPUTS = frozenset({"str", "int", "float", "bool"})
"""The types of inputs that the form has fields for."""


class PageError(ValueError):
    """A bundle cannot be a page, because of a node, part or input; the message has a remedy."""


def check_inputs(inputs: Mapping[str, Input]) -> None:
    """Raise ``PageError`` for an input that the page has no field for, or whose default a field cannot hold."""
    for name, spec in inputs.items():
        if spec.type not in PAGE_INPUTS:
            raise PageError(
                f"the input '{name}' has the type {spec.type}, and a page has fields for texts, numbers and choices "
                "only: export a bundle without --page, or a workflow that does not read it"
            )
        if isinstance(spec.default, list) or (spec.default is None and not spec.required):
            kind = "null" if spec.default is None else "a list"
            raise PageError(
                f"the default of the input '{name}' is {kind}, and a field of a page holds one value: give one with "
                f"--set {name}=VALUE"
            )


def check_providers(providers: Sequence[str]) -> None:
    """Raise ``PageError`` for graphs that need another device than the CPU."""
    if providers:
        raise PageError(
            f"its graphs need {' or '.join(providers)}, and a page computes on the CPU: export it in fp32, fp16 or int8"
        )


def check_parts(parts: Mapping[str, Part]) -> None:
    """Raise ``PageError`` for graphs whose tensors the page lacks the element type of."""
    for name, part in parts.items():
        for tensor in (*part.inputs, *part.outputs):
            if tensor.dtype not in PAGE_DTYPES:
                raise PageError(
                    f"part '{name}' has '{tensor.name}' in {tensor.dtype}, and a page has tensors of "
                    f"{', '.join(sorted(PAGE_DTYPES))}: export it in fp32"
                )


def check_operations(plan: Sequence[Operation], read_file: Callable[[str], bytes]) -> None:
    """Raise ``PageError`` for an operation that the page cannot compute. read_file: reads a file of the bundle."""
    for operation in walk_operations(plan):
        if operation.op in ("part", "loop"):
            continue
        if operation.op not in PAGE_OPERATIONS:
            raise PageError(
                f"{operation.node} ({operation.op}): a page does not compute this operation with the values of a run; "
                f"it computes {', '.join(sorted(PAGE_OPERATIONS))}, and tables of whatever depends on one integer "
                "input, such as a sampler's on its steps"
            )
        if (problem := next(_setting_problems(operation, read_file), None)) is not None:
            raise PageError(f"{operation.node} ({operation.op}): {problem}; use guidegraph-run")


def _setting_problems(operation: Operation, read_file: Callable[[str], bytes]) -> Iterator[str]:
    settings = operation.settings
    for name in ("seed", "label"):
        if isinstance(settings.get(name), list):
            yield f"'{name}' is a list, and a page takes one number"
    if operation.op != "text.tokenize":
        return
    if settings.get("weighted"):
        yield "the prompt has weighted words, which a page does not read"
    file: Any = settings["tokenizer"]
    problem = tokenizer_problem(json.loads(read_file(file["file"])), settings.get("length") is not None)
    if problem is not None:
        yield f"its tokenizer has {problem}, and a page splits texts into whole words only"


def tokenizer_problem(tokenizer: Mapping[str, Any], has_length: bool) -> str | None:
    """What static/words.js cannot do for a tokenizer.json; None if it can do all."""
    expected: dict[str, tuple[str | None, ...]] = {
        "model": ("WordLevel",),
        "normalizer": (None, "Lowercase"),
        "pre_tokenizer": ("Whitespace",),
        "post_processor": (None, "TemplateProcessing"),
    }
    for name, types in expected.items():
        kind = (tokenizer.get(name) or {}).get("type")
        if kind not in types:
            return f"a {name.replace('_', ' ')} of type {kind}"
    padding, truncation = tokenizer.get("padding"), tokenizer.get("truncation")
    if tokenizer.get("added_tokens"):
        return "added tokens"
    if padding is None or padding["direction"] != "Right":
        return "no padding on the right"
    if not has_length and "Fixed" not in padding["strategy"]:
        return "no fixed length"
    if truncation is not None and truncation["direction"] != "Right":
        return "truncation on the left"
    if not has_length and (truncation or {}).get("max_length") != padding["strategy"]["Fixed"]:
        return "truncation to another length than that of its padding"
    return None
