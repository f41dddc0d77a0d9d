"""The record of a run: ``run.json`` next to the outputs, and the text in every picture."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guidegraph_runtime.bundle.manifest_types import FILE_TYPES
from guidegraph_runtime.run_json import FORMAT, RunJson, picture_text, with_machine
from guidegraph_runtime.running.inputs import resolve_inputs
from guidegraph_runtime.running.overrides import host_operations, override_settings

if TYPE_CHECKING:
    from guidegraph_runtime.running.bundle import Bundle

KEYWORD = "guidegraph-bundle"
"""The keyword of the text chunk in a picture."""

_PACKAGES = {
    "guidegraph-runtime": "guidegraph_runtime",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "pillow": "PIL",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
}


@dataclass
class Record(RunJson):
    """The data of `run.json`. inputs: values and names of files. nodes: overrides of the plan, by ``node.setting``."""

    bundle: Bundle
    inputs: Mapping[str, Any]
    nodes: Mapping[str, Any]
    seeds: Mapping[str, Any]
    only: list[str] | None
    lora: Sequence[str] = ()
    files: dict[str, list[str]] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)

    def text(self, output: str, index: int, batch: int) -> dict[str, str]:
        """The text of a picture, enough to repeat the run."""
        return picture_text(KEYWORD, FORMAT, {**self._arguments(), "output": output, "index": index, "batch": batch})

    def content(self) -> dict[str, Any]:
        """The fields of ``run.json`` after its status."""
        bundle, settings = self.bundle, self.bundle.settings
        timings = bundle.timings
        return {
            **self._arguments(),
            "path": os.path.abspath(bundle.where),
            "providers": [provider.name for provider in settings.providers],
            "threads": settings.intra_threads,
            "outputs": {
                name: {"type": bundle.manifest.outputs[name].type, "files": files} for name, files in self.files.items()
            },
            "started": self.started,
            "seconds": self.seconds(),
            "timings": {
                "verify": round(timings.opening, 6),
                "load": round(timings.sessions, 6),
                "parts": {
                    name: {"calls": timings.calls[name], "seconds": round(seconds, 6)}
                    for name, seconds in timings.parts.items()
                },
                "operations": {name: round(seconds, 6) for name, seconds in self.operations.items()},
            },
            # From the modules: package metadata takes longer to read than a step.
            "versions": with_machine(
                {
                    name: str(sys.modules[module].__version__)
                    for name, module in _PACKAGES.items()
                    if module in sys.modules
                }
            ),
            "made_by": dict(bundle.manifest.versions),
        }

    def _arguments(self) -> dict[str, Any]:
        return {
            "bundle": {"name": self.bundle.manifest.name, "digest": self.bundle.digest},
            "inputs": dict(self.inputs),
            "nodes": dict(self.nodes),
            "seeds": dict(self.seeds),
            "only": self.only,
            "lora": [*self.lora],
        }


def make_record(
    bundle: Bundle,
    params: Mapping[str, Any],
    nodes: Mapping[str, Any],
    only: list[str] | None,
    lora: Sequence[str] = (),
) -> Record:
    """Create the record of a run. Raises ``BundleError`` for invalid inputs and nodes."""
    manifest = bundle.manifest
    values = resolve_inputs(manifest, params, bundle.where, bundle.file)
    for name, item in manifest.inputs.items():
        if item.type in FILE_TYPES:
            values[name] = _files(params[name]) if name in params else item.default
    plan = override_settings(manifest.plan, nodes, bundle.where)
    seeds: dict[str, Any] = {}
    for operation in host_operations(plan):
        link = operation.inputs.get("seed")
        own = operation.settings.get("seed")
        seeds[operation.node] = own if link is None else values.get(link.removeprefix("params."))
    return Record(bundle, values, nodes, {node: seed for node, seed in seeds.items() if seed is not None}, only, lora)


def _files(value: Any) -> Any:
    """Represent input files: paths as absolute paths, bytes and arrays as hashes."""
    if isinstance(value, (list, tuple)):
        return [_files(item) for item in value]
    if isinstance(value, bytes):
        return f"sha256:{hashlib.sha256(value).hexdigest()}"
    if hasattr(value, "tobytes"):
        return f"sha256:{hashlib.sha256(value.tobytes()).hexdigest()}"
    return None if value is None else os.path.abspath(value)
