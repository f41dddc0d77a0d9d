"""The operations, inputs, element types and tokenizers that the page supports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidegraph_runtime.bundle.manifest_types import FILE_TYPES, PICTURE_TYPES, Input, Operation, Part, walk_operations
from guidegraph_runtime.files.regular_files import read_json

PAGE_OPERATIONS = frozenset(
    {
        "guidance.interval",
        "image.from_sample",
        "image.grid",
        "image.load",
        "label.constant",
        "layout.place",
        "layout.table",
        "mask.bounds",
        "mask.load",
        "noise.gaussian",
        "scheduler.add_noise",
        "semantic.boxes",
        "semantic.load",
        "tensor.cat",
        "text.tokenize",
    }
)
"""The operations in static/operations.js."""
READ_FIELDS = {
    "guidance.interval": ("schedule.alphas_bar", "schedule.form"),
    "scheduler.add_noise": ("scheduler.alpha", "scheduler.sigma", "state.index"),
}
"""The fields of structured ports that an operation of the page reads, if not all: others may be no numbers."""
PAGE_DTYPES = frozenset({"bool", "int32", "int64", "uint64", "float32", "float64"})
"""The element types in static/tensors.js."""
PAGE_INPUTS = frozenset({"str", "int", "float", "bool", "numbers", "path", *PICTURE_TYPES})
"""The types of inputs that the form has fields for."""


class PageError(ValueError):
    """A bundle cannot be a page. problems: all reasons that are known, each with a remedy."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def page_inputs(operation: Operation) -> dict[str, str]:
    """The links of an operation that the page reads."""
    fields = READ_FIELDS.get(operation.op)
    return {
        port: link for port, link in operation.inputs.items() if fields is None or "." not in port or port in fields
    }


def find_input_problems(inputs: Mapping[str, Input]) -> Iterator[str]:
    """The inputs for which the page lacks a field, or whose default a field cannot hold."""
    for name, spec in inputs.items():
        if spec.type not in PAGE_INPUTS:
            yield (
                f"the input '{name}' has the type {spec.type}, and a page has fields for texts, numbers, choices "
                "and pictures only: export a bundle without --page, or a workflow that does not read it"
            )
        if spec.default is None and not spec.required:
            yield (
                f"the default of the input '{name}' is null, and a field of a page holds a value: give one with "
                f"--set {name}=VALUE"
            )
        if isinstance(spec.default, list) and spec.type in FILE_TYPES:
            yield (
                f"the default of the input '{name}' is a list of files, and a field of a page holds one: give one with "
                f"--set {name}=FILE"
            )


def find_provider_problems(providers: Sequence[str]) -> Iterator[str]:
    """What to say about graphs that need another device than the CPU."""
    if providers:
        yield (
            f"its graphs need {' or '.join(providers)}, and a page computes on the CPU: export it in fp32, fp16 or int8"
        )


def find_part_problems(parts: Mapping[str, Part]) -> Iterator[str]:
    """The graphs whose tensors the page lacks the element type of."""
    for name, part in parts.items():
        tensors = (*part.inputs, *part.outputs)
        if (tensor := next((item for item in tensors if item.dtype not in PAGE_DTYPES), None)) is not None:
            yield (
                f"part '{name}' has '{tensor.name}' in {tensor.dtype}, and a page has tensors of "
                f"{', '.join(sorted(PAGE_DTYPES))}: export it in fp32"
            )


def find_operation_problems(plan: Sequence[Operation], read_file: Callable[[str], bytes]) -> Iterator[str]:
    """The operations that the page cannot compute. read_file: reads a file of the bundle."""
    for operation in walk_operations(plan):
        if operation.op in ("part", "loop"):
            continue
        if operation.op not in PAGE_OPERATIONS:
            yield (
                f"{operation.node} ({operation.op}): a page does not compute this operation with the values of a run; "
                f"it computes {', '.join(sorted(PAGE_OPERATIONS))}, and tables of whatever depends on one integer "
                "input, such as a sampler's on its steps: leave out what it gives (--only), or use guidegraph-run"
            )
        if operation.op != "text.tokenize":
            continue
        settings, title = operation.settings, f"{operation.node} ({operation.op})"
        if settings.get("weighted"):
            yield f"{title}: the prompt has weighted words, which a page does not read; use guidegraph-run"
        file: Any = settings["tokenizer"]
        has_length = settings.get("length") is not None
        for problem in find_tokenizer_problems(json.loads(read_file(file["file"])), has_length):
            yield (
                f"{title}: its tokenizer has {problem}, and a page splits texts into whole words and added tokens "
                "only; use guidegraph-run"
            )


def find_tokenizer_problems(tokenizer: Mapping[str, Any], has_length: bool) -> Iterator[str]:
    """What static/words.js cannot do for a tokenizer.json."""
    expected: dict[str, tuple[str | None, ...]] = {
        "model": ("WordLevel",),
        "normalizer": (None, "Lowercase"),
        "pre_tokenizer": ("Whitespace",),
        "post_processor": (None, "TemplateProcessing"),
    }
    for name, types in expected.items():
        kind = (tokenizer.get(name) or {}).get("type")
        if kind not in types:
            yield f"a {name.replace('_', ' ')} of type {kind}"
    for token in tokenizer.get("added_tokens") or ():
        if flags := [flag for flag in ("single_word", "lstrip", "rstrip", "normalized") if token.get(flag)]:
            yield f"the added token '{token.get('content')}' with {' and '.join(flags)}"
    padding, truncation = tokenizer.get("padding"), tokenizer.get("truncation")
    if truncation is not None and truncation["direction"] != "Right":
        yield "truncation on the left"
    if padding is None or padding["direction"] != "Right":
        yield "no padding on the right"
    elif not has_length and "Fixed" not in padding["strategy"]:
        yield "no fixed length"
    elif not has_length and (truncation or {}).get("max_length") != padding["strategy"]["Fixed"]:
        yield "truncation to another length than that of its padding"


MODULE, GLUE, WASM = "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
"""The library, the loader of its WebAssembly, and the WebAssembly."""

INSTALL = "'npm install --ignore-scripts onnxruntime-web' writes it to node_modules/onnxruntime-web"


@dataclass(frozen=True)
class OnnxruntimeWeb:
    """The npm package onnxruntime-web: its folder `dist`, its version and the name of its licence."""

    dist: Path
    version: str
    license: str

    @property
    def files(self) -> list[Path]:
        """The files that a page needs."""
        return [self.dist / name for name in (MODULE, GLUE, WASM)]


def find_onnxruntime_web(folder: Path) -> OnnxruntimeWeb:
    """The package in a folder: its own, or its `dist`.

    Raises ``ValueError`` with the missing file and a way to get the package.
    """
    package = folder.absolute().parent if folder.name == "dist" else folder
    described = package / "package.json"
    try:
        description = read_json(described)
    except OSError as error:
        raise ValueError(
            f"'{described}' cannot be read ({error.strerror}): name the folder of the package; {INSTALL}"
        ) from None
    except ValueError:
        raise ValueError(f"'{described}' is not JSON: {INSTALL}") from None
    name = description.get("name") if isinstance(description, dict) else None
    if name != "onnxruntime-web":
        raise ValueError(f"'{described}' describes {name!r:.60}, not onnxruntime-web: {INSTALL}")
    web = OnnxruntimeWeb(package / "dist", str(description.get("version")), str(description.get("license")))
    if missing := [path for path in web.files if not path.is_file()]:
        raise ValueError(f"'{missing[0]}' is missing from onnxruntime-web {web.version}: {INSTALL}")
    return web
