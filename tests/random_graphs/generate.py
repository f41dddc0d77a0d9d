"""Random graphs from a seed: `random_graph(seed)` is a valid workflow, `wild_graph(seed)` may be invalid.

A source has the type that its node declares, which is all that the checker sees, and the narrower type of its values.
A valid graph contains only links that the rule allows and whose values fit; a wild one also links that merely may fit.
"""

from __future__ import annotations

import random
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

import tests.random_graphs.nodes  # noqa: F401  importing the module registers its nodes
from guidegraph.graph.node import NodeSpec, Registry, get_spec
from guidegraph.graph.types import Tensor
from guidegraph.nodes.types import Image, Latent, Sample
from tests.random_graphs.annotations import can_link, element, is_subtype, may_fit, members
from tests.random_graphs.declared import (
    SURE_ROWS,
    TYPES,
    Source,
    actual_type,
    can_run,
    declarable,
    find_collected_types,
    item_sources,
    parameter_type,
    type_text,
)
from tests.random_graphs.typed_node import KEEPS, NODES

WIDER: Mapping[Any, tuple[str, Any]] = {Image: ("halve", Sample), Latent: ("halve", Sample), int: ("add", float)}
"""For the start type of a carry: the node that widens it, and the wider type."""
DECIDING = ("present", "word", "rows", "kind")
"""Settings that determine the type of an output: never linked."""


@dataclass
class RandomGraph:
    """A workflow, its sub-workflows by file name, and the values and nodes needed to run it.

    params: values for parameters without a default. tensor_collects: names of loops and of their collected values that
    are declared as tensors. exportable: whether `guidegraph export` supports it.
    """

    seed: int
    text: str
    files: Mapping[str, str]
    params: Mapping[str, Any]
    registry: Registry
    tensor_collects: frozenset[tuple[str, str]] = frozenset()
    exportable: bool = False

    def sources(self, folder: Path) -> dict[str, str]:
        """All files as texts by path, for ``build`` and ``load_workflow``."""
        return {str(folder / name): text for name, text in {"workflow.yaml": self.text, **self.files}.items()}

    def write(self, folder: Path) -> Path:
        """Write all files; the path of the workflow."""
        for name, text in self.sources(folder).items():
            Path(name).write_text(text, encoding="utf-8")
        return folder / "workflow.yaml"


@cache
def registry() -> Registry:
    """The built-in nodes and types, with those of these tests."""
    from guidegraph.plugins.manager import default_registry

    built_in = default_registry(entry_points=False)
    specs = {get_spec(function).id: get_spec(function) for function in NODES}
    return replace(
        built_in, nodes={**built_in.nodes, **specs}, types={**built_in.types, **{cls.__name__: cls for cls in TYPES}}
    )


def random_graph(seed: int) -> RandomGraph:
    """A valid workflow whose runs all succeed."""
    return _Generator(seed, wild=False).make_graph()


def wild_graph(seed: int, misfits: bool = False) -> RandomGraph:
    """A workflow that may have invalid links, which `validate` must report.

    misfits: whether values may be wrong where the link rule allows the link: an `Any` or a `Tensor` whose value does
    not fit the port.
    """
    return _Generator(seed, wild=True, misfits=misfits).make_graph()


@cache
def _hints(id: str) -> Mapping[str, Any]:
    return typing.get_type_hints(registry().nodes[id].function, include_extras=True)


def _outputs(spec: NodeSpec) -> dict[str, Any]:
    """Outputs and their annotations."""
    annotation = _hints(spec.id)["return"]
    if annotation is NoneType:
        return {}
    hints = typing.get_type_hints(annotation) if spec.named_outputs else {}
    return {name: hints.get(name, annotation) for name in spec.outputs}


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(tree: Mapping[str, Any]) -> str:
    return str(yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120))


@dataclass
class _Generator:
    seed: int
    wild: bool
    misfits: bool = False
    rng: random.Random = field(init=False)
    count: int = 0
    files: dict[str, str] = field(default_factory=dict)
    tensor_collects: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.specs = [spec for id, spec in registry().nodes.items() if id.startswith("rand.")]

    def make_graph(self) -> RandomGraph:
        params: dict[str, Any] = {}
        values: dict[str, Any] = {}
        sources: list[Source] = []
        for _ in range(self.rng.randint(0, 3)):
            name, kind = self.new_name("p"), self.rng.choice((int, float, str, bool, Sequence[float], int | None))
            value = self.make_literal(kind)
            params[name] = self.declare(kind, value) if self.chance(0.7) else {"type": type_text(kind)}
            if isinstance(params[name], dict) and "default" not in params[name]:
                values[name] = value
            declared = parameter_type(params[name], kind)
            actual = NoneType if value is None else float if declared is float else kind
            sources.append(Source(f"params.{name}", declared, int if actual == int | None else actual))
        nodes, available = self.make_nodes(sources, self.rng.randint(4, 9), depth=0, nested=0)
        tree: dict[str, Any] = {
            "guidegraph": 1,
            "params": params,
            "nodes": nodes,
            "outputs": self.choose_outputs(available),
        }
        text = _yaml({key: value for key, value in tree.items() if value or key != "params"})
        return RandomGraph(self.seed, text, self.files, values, registry(), frozenset(self.tensor_collects))

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def new_name(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def choose_outputs(self, available: Sequence[Source]) -> dict[str, str]:
        chosen = self.rng.sample(available, min(len(available), self.rng.randint(1, 4)))
        return {self.new_name("o"): source.link for source in chosen}

    def make_nodes(
        self, outside: Sequence[Source], size: int, depth: int, nested: int
    ) -> tuple[dict[str, Any], list[Source]]:
        """Nodes and their sources; `depth`: the number of loops around them, `nested`: of workflows."""
        nodes: dict[str, Any] = {}
        available: list[Source] = []
        while len(nodes) < size or not available:
            visible = [*outside, *available]
            kind = self.rng.random()
            if kind < 0.15 and depth < 2 and visible:
                result = self.make_loop(visible, depth, nested)
            elif kind < 0.25 and nested < 2:
                result = self.make_sub_workflow(visible, depth, nested)
            else:
                result = self.make_call(visible, self.rng.choice(self.specs))
            if result is not None:
                name, tree, sources = result
                nodes[name] = tree
                available += sources
        return nodes, available

    def make_call(self, visible: Sequence[Source], spec: NodeSpec) -> tuple[str, dict[str, Any], list[Source]] | None:
        hints = _hints(spec.id)
        links: dict[str, Any] = {}
        literals: dict[str, Any] = {}
        types: dict[str, Any] = {}
        for name, port in spec.inputs.items():
            if not port.required and self.chance(0.5):
                continue
            if self.chance(0.85) and (linked := self.choose_link(visible, hints[name])) is not None:
                links[name], types[name] = linked
            elif (value := self.make_literal(hints[name])) is not None:
                literals[name], types[name] = value, hints[name]
            elif port.required:
                return None
        for name in spec.settings:
            if name not in DECIDING and get_origin(hints[name]) is not Annotated and self.chance(0.25):
                linked = self.choose_link(visible, hints[name], single=True)
                if linked is not None:
                    links[name] = linked[0]
                    continue
            if self.chance(0.5) and (value := self.make_literal(hints[name])) is not None:
                literals[name] = value
        name = self.new_name("n")
        tree = {"use": spec.id, **({"in": links} if links else {}), **({"with": literals} if literals else {})}
        return name, tree, list(self.output_sources(name, spec, literals, types))

    def output_sources(
        self, name: str, spec: NodeSpec, literals: Mapping[str, Any], types: Mapping[str, Any]
    ) -> Iterator[Source]:
        outputs = _outputs(spec)
        for output, declared in outputs.items():
            actual = actual_type(spec.id, dict(literals)) or declared
            kept_type = types.get(KEEPS.get(spec.id, ""))
            if kept_type is not None and (declared is Any or is_subtype(kept_type, Sample)):
                actual = kept_type if is_subtype(kept_type, declared) else declared
            yield Source(f"{name}.{output}" if len(outputs) > 1 or self.chance(0.3) else name, declared, actual)

    def choose_link(self, visible: Sequence[Source], port: Any, single: bool = False) -> tuple[Any, Any] | None:
        """A link or list of links for a port, and the type of its value; None if nothing can be linked."""
        inner = next((element(member) for member in members(port) if element(member) is not None), None)
        if inner is not None and not single and self.chance(0.6):
            count = self.rng.randint(1, 3)
            chosen = [self.choose_source(visible, inner) for _ in range(count)]
            if None not in chosen:
                return [source.link for source in chosen if source], Sequence[inner]  # type: ignore[valid-type]
        source = self.choose_source(visible, port)
        return None if source is None else (source.link, source.actual)

    def choose_source(self, visible: Sequence[Source], port: Any) -> Source | None:
        fitting: list[Source]
        if self.wild:
            anything = self.chance(0.02)
            fitting = [s for s in visible if s.may_feed(port, self.misfits) or (anything and self.misfits)]
            fitting += [s for s in visible if anything and not can_link(s.declared, port)]
        else:
            fitting = [s for s in visible if s.is_right_for(port)]
        recent = fitting[-6:]
        return self.rng.choice(recent if recent and self.chance(0.7) else fitting) if fitting else None

    def make_literal(self, annotation: Any) -> Any:
        """A literal of a type; None if there is none."""
        if get_origin(annotation) is Annotated:
            kind, *bounds = get_args(annotation)
            low = max([getattr(bound, "ge", -3) for bound in bounds])
            high = min([getattr(bound, "le", 4) for bound in bounds])
            return self.rng.randint(low, high) if kind is int else self.make_literal(kind)
        if get_origin(annotation) is Literal:
            return self.rng.choice(get_args(annotation))
        makers: dict[Any, Callable[[], Any]] = {
            int: lambda: self.rng.randint(0, 4),
            float: lambda: self.rng.choice((0.0, 0.5, 1.0, 2, -1.5, 1)),
            str: lambda: self.rng.choice(("x", "a b", "7", "null", "on", "é")),
            bool: lambda: self.chance(0.5),
        }
        kinds = [kind for kind in members(annotation) if kind in makers or element(kind) in makers]
        if not kinds:
            return None
        kind = self.rng.choice(kinds)
        if kind in makers:
            return makers[kind]()
        return [makers[element(kind)]() for _ in range(self.rng.randint(0, 3))]

    def declare(self, kind: Any, value: Any) -> Any:
        """A parameter with a default, in one of its forms: the value, a default, or a default and a type."""
        if kind in (int, str, bool) and self.chance(0.4):
            return {"default": value} if self.chance(0.5) else value
        return {"default": value, "type": type_text(kind)}

    def make_loop(
        self, visible: Sequence[Source], depth: int, nested: int
    ) -> tuple[str, dict[str, Any], list[Source]] | None:
        over = self.choose_over(visible)
        if over is None:
            return None
        name, item = self.new_name("l"), self.new_name("i")
        inner = [Source("loop.index", int, int), *item_sources(f"loop.{item}", over)]
        carry: dict[str, str] = {}
        nexts: dict[str, str] = {}
        body: dict[str, Any] = {}
        starts: dict[str, Source] = {}
        for _ in range(self.rng.randint(0, 2)):
            start = self.rng.choice(visible)
            key = self.new_name("c")
            carry[key], starts[key] = start.link, start
            widening = WIDER.get(start.declared) if self.chance(0.4) and not self.wild else None
            if widening is not None:
                step, (node, wide) = self.new_name("n"), widening
                body[step] = {"use": f"rand.{node}", "in": {"a" if node == "add" else "x": f"carry.{key}"}}
                actual = start.actual if wide is Sample else float
                starts[key] = Source(f"carry.{key}", wide, actual)
                nexts[key] = step
            inner.append(replace(starts[key], link=f"carry.{key}"))
        nodes, available = self.make_nodes([*visible, *inner], self.rng.randint(1, 4), depth + 1, nested)
        body |= nodes
        for key, start in starts.items():
            if key not in nexts:
                options = [s for s in [*inner, *available] if self.may_follow(s, start)]
                nexts[key] = self.rng.choice(options).link if options else f"carry.{key}"
        collect: dict[str, str] = {}
        kinds = {source.link: source.declared for source in [*inner, *available]}
        outputs = []
        for key, start in starts.items():
            stays = is_subtype(kinds.get(nexts[key], start.declared), start.declared)
            outputs.append(Source(f"{name}.{key}", start.declared if stays else Any, start.actual))
        for source in self.rng.sample(available, min(len(available), self.rng.randint(0, 2))):
            key = self.new_name("k")
            collect[key] = source.link
            declared, actual = find_collected_types(source)
            if declared is Tensor:
                self.tensor_collects.add((name, key))
            outputs.append(Source(f"{name}.{key}", declared, actual))
        tree: dict[str, Any] = {"loop": {"over": over.link, "as": item}}
        tree |= {"carry": carry} if carry else {}
        tree |= {"body": body} | ({"next": nexts} if nexts else {}) | ({"collect": collect} if collect else {})
        return name, tree, outputs

    def may_follow(self, source: Source, start: Source) -> bool:
        """Whether a carry that starts with ``start`` may have ``source`` as its next value."""
        if self.misfits:
            return may_fit(source.declared, start.declared)
        if not is_subtype(source.actual, start.actual):
            # Such a carry is refused, unless it starts as a carry of an enclosing loop, which may still widen to Any.
            sure = Any not in members(start.declared) and not start.link.startswith("carry.")
            return self.wild and sure and not may_fit(source.declared, start.declared)
        return self.wild or is_subtype(source.declared, start.declared)

    def choose_over(self, visible: Sequence[Source]) -> Source | None:
        """A source for a loop to run over."""

        def runs(source: Source) -> bool:
            leap = self.wild and self.chance(0.3) and (self.misfits or source.declared is not Any)
            kind = source.declared if leap else source.actual
            return kind is int or element(kind) is not None or kind in SURE_ROWS

        options = [source for source in visible if runs(source) and (self.wild or can_run(source.declared))]
        return self.rng.choice(options) if options else None

    def make_sub_workflow(
        self, visible: Sequence[Source], depth: int, nested: int
    ) -> tuple[str, dict[str, Any], list[Source]] | None:
        """A sub-workflow in its own file, used as a node."""
        params: dict[str, Any] = {}
        links: dict[str, str] = {}
        literals: dict[str, Any] = {}
        inner: list[Source] = []
        for _ in range(self.rng.randint(1, 3)):
            key = self.new_name("q")
            if visible and self.chance(0.7):
                source = self.rng.choice(visible)
                kind = self.rng.choice(declarable(source, self.wild, self.misfits))
                params[key] = {"type": type_text(kind)}
                links[key] = source.link
                caller_type = source.declared if source.caller_type is Any else source.caller_type
                inner.append(Source(f"params.{key}", kind, source.actual, caller_type))
            else:
                kind = self.rng.choice((int, float, str, Sequence[float]))
                params[key] = self.declare(kind, self.make_literal(kind))
                if self.chance(0.5):
                    literals[key] = self.make_literal(kind)
                inner.append(Source(f"params.{key}", parameter_type(params[key], kind), kind))
        nodes, available = self.make_nodes(inner, self.rng.randint(1, 4), depth, nested + 1)
        chosen = self.rng.sample([*available, *inner], min(len(available), self.rng.randint(1, 2)))
        outputs = {self.new_name("o"): source for source in chosen}
        file = f"{self.new_name('block')}.yaml"
        tree = {"guidegraph": 1, "params": params, "nodes": nodes, "outputs": {k: s.link for k, s in outputs.items()}}
        self.files[file] = _yaml(tree)
        name = self.new_name("b")
        node = {"use": f"./{file}", **({"in": links} if links else {}), **({"with": literals} if literals else {})}
        return name, node, [replace(source, link=f"{name}.{key}") for key, source in outputs.items()]
