"""Workflows that came in pictures: kept in memory, read-only, and with a stranger's permissions."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guidegraph.graph.ir import Graph
from guidegraph.graph.language.yaml_tree import read_text
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.load import build
from guidegraph.graph.resolution.ports import TypeRecord
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.policy import Policy, is_shipped
from guidegraph.runs.recipe import Recipe, apply_recipe, read_recipe

MAX_PICTURES = 20
MAX_BYTES = 64 << 20
LONGEST_STEM = 60
SUFFIX = ".png"
NOTE = (
    "this workflow came in a picture: it reads only what ships with guidegraph, writes only into the folder of its run"
)


@dataclass(frozen=True)
class WorkflowSource:
    """Where a workflow comes from: the file at ``path``, or the recipe of a picture, which may be a stranger's."""

    path: Path
    recipe: Recipe | None = None

    @property
    def readonly(self) -> str:
        """Why it cannot be edited; empty if it can."""
        if self.recipe is not None:
            return "it came in a picture, and has no file here"
        return "it ships with guidegraph: copy it to change it" if is_shipped(self.path) else ""

    def read_text(self) -> str:
        """The text. Raises ``WorkflowError`` if it cannot be read."""
        return self.recipe.sources[str(self.path)] if self.recipe else read_text(self.path, str(self.path))

    def build(
        self, registry: Registry, sources: Mapping[str, str], files: set[Path] | None, types: TypeRecord | None
    ) -> Graph:
        """The graph, as the file or the picture has it. sources: texts in place of files. Raises ``WorkflowError``."""
        if self.recipe is not None:
            sources, files = self.recipe.sources, None
        return build(self.path, registry, sources, stranger=self.recipe is not None, files=files, types=types)

    def build_for_run(self, registry: Registry) -> Graph:
        """The graph, with the picture's parameters as its defaults. Raises ``WorkflowError``."""
        return apply_recipe(self.build(registry, {}, None, None), self.recipe)

    def make_policy(self, policy: Policy, user_params: Collection[str] = ()) -> Policy:
        """The permissions. user_params: the parameters whose values the user typed."""
        if self.recipe is None:
            return policy
        return replace(policy, stranger=True, user_params=frozenset(user_params))

    def complete(self, config: RunConfig, user_params: Collection[str]) -> RunConfig:
        """The settings of a run, with the outputs and the dtype of the picture."""
        config = replace(config, policy=self.make_policy(config.policy, user_params))
        return replace(config, only=self.recipe.only, dtype=self.recipe.dtype) if self.recipe else config

    def format_default(self, name: str, written: str) -> str:
        """A parameter's default as the text of a field. written: that of the workflow."""
        if self.recipe is None or name not in self.recipe.params:
            return written
        value: Any = self.recipe.params[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass
class Strangers:
    """The workflows of the last ``MAX_PICTURES`` pictures by name. Any thread may use it."""

    _sources: dict[str, WorkflowSource] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, file: str, content: bytes) -> str:
        """Read the workflow of a PNG. file: its name on the user's machine. Returns the name for the page.

        Raises ``WorkflowError`` for a picture without a workflow, and for other files.
        """
        stem = "".join(letter for letter in Path(file).stem if letter.isprintable() and letter not in "/\\")
        stem = stem[:LONGEST_STEM] or "picture"
        with tempfile.TemporaryDirectory(prefix="guidegraph-") as folder:
            path = Path(folder, f"picture{SUFFIX}")
            path.write_bytes(content)
            recipe = read_recipe(path)
        source = WorkflowSource(recipe.workflow, recipe)
        with self._lock:
            names = [f"{stem}{SUFFIX}", *(f"{stem}-{i}{SUFFIX}" for i in range(2, MAX_PICTURES + 2))]
            name = next(name for name in names if self._sources.get(name, source) == source)
            self._sources[name] = source
            for oldest in [*self._sources][:-MAX_PICTURES]:
                del self._sources[oldest]
        return name

    def list_names(self) -> list[str]:
        with self._lock:
            return [*self._sources]

    def find(self, name: str) -> WorkflowSource | None:
        """The workflow with this name; ``None`` if there is none."""
        return self._sources.get(name)
