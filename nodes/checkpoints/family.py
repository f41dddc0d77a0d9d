"""A family of checkpoints: how its files are recognised and opened. Plugins bring more by `guidegraph_families`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import update_wrapper
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from guidegraph.graph.errors import GuidegraphError, suggest
from guidegraph.graph.types import PortType, explain_mismatch
from guidegraph_runtime.error_text import describe_error

if TYPE_CHECKING:
    from guidegraph.nodes.checkpoints.load_options import LoadOptions

OWN = "guidegraph"
"""The name in messages of the families in PACKAGE, whose errors are told as they are."""
PACKAGE = "guidegraph_families"


class Header(NamedTuple):
    """The shape and dtype of a tensor in a file; the dtype by torch's name, such as "bfloat16"."""

    shape: tuple[int, ...]
    dtype: str


Headers: TypeAlias = Mapping[str, Header]
Config: TypeAlias = Mapping[str, Any] | None


@dataclass(frozen=True)
class Family:
    """A family of checkpoints that `checkpoint.load` recognises by their content.

    recognise: called with the headers and the configuration of a path, without its weights; returns whether the family
    can open it. The headers are the shapes and dtypes of the tensors by name: those of a file, or of all safetensors in
    a folder, where the name of a subfolder and a slash come first. The configuration is None for a file, and otherwise
    the content of the folder's model_index.json, of its config.json, or of the config.yaml of a CompVis folder; it is
    empty if the folder has none of them. open: called with the path and the settings of `checkpoint.load`; returns the
    parts by the names of its outputs, on the run's device and in its dtype. explain: called with the same for a path
    that no family recognises; raises ``ValueError`` if it knows why, for a folder of its layout with unknown parts.
    """

    name: str
    recognise: Callable[[Headers, Config], bool]
    open: Callable[[Path, LoadOptions], Mapping[str, Any]]
    explain: Callable[[Path, LoadOptions], object] | None = None


class FamilyError(GuidegraphError):
    """A family of a plugin failed, or returned something else than asked for; the message names both."""


class Offer(NamedTuple):
    """A family and the plugin that it comes from."""

    family: Family
    plugin: str

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"'{self.family.name}' of {self.plugin}"

    def recognises(self, headers: Headers, config: Config) -> bool:
        """Whether the family says that it can open a path. Raises ``FamilyError``."""
        try:
            answer = self.family.recognise(headers, config)
        except Exception as error:
            raise FamilyError(f"the family {self.name} failed to recognise it: {describe_error(error)}") from error
        if answer and answer is not True:
            raise FamilyError(
                f"the family {self.name} failed to recognise it: it returned {answer!r:.60}, expected True or False"
            )
        return bool(answer)

    def load(self, path: Path, options: LoadOptions, outputs: Mapping[str, PortType]) -> dict[str, Any]:
        """Load the parts of a path by name; modules among them are frozen. outputs: the parts that there may be.

        Raises ``FamilyError`` if the family fails or returns anything else; our own families raise what they raise.
        """
        open_parts = self.family.open
        if self.plugin == OWN:
            return dict(open_parts(path, options))
        failed = f"the family {self.name} failed to open '{path}'"
        try:
            parts = open_parts(path, options)
        except Exception as error:
            raise FamilyError(f"{failed}: {describe_error(error)}") from error
        if not isinstance(parts, Mapping) or not parts:
            returned = "no parts" if isinstance(parts, Mapping) else f"{parts!r:.60}"
            raise FamilyError(f"{failed}: it returned {returned}, expected a mapping such as {{'denoiser': …}}")
        for name, part in parts.items():
            if name not in outputs:
                raise FamilyError(f"{failed}: there is no part {name!r:.60}; {suggest(str(name), outputs, 'parts')}")
            if reason := explain_mismatch(part, outputs[name]):
                raise FamilyError(f"{failed}: its part '{name}' does not fit: {reason}")
            if callable(freeze := getattr(part, "requires_grad_", None)) and hasattr(part, "eval"):
                freeze(False).eval()
        return dict(parts)


_offers: ContextVar[Callable[[], Sequence[Offer]] | None] = ContextVar("guidegraph_families", default=None)


class AskingFunction:
    """A node's function, called while `find_offers` returns the families of its plugins. Equal for equal functions."""

    def __init__(self, function: Callable[..., Any], list_offers: Callable[[], Sequence[Offer]]) -> None:
        """list_offers: called at each call."""
        self.function, self.list_offers = function, list_offers
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = _offers.set(self.list_offers)
        try:
            return self.function(*args, **kwargs)
        finally:
            _offers.reset(token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AskingFunction) and self.function is other.function

    def __hash__(self) -> int:
        return hash(self.function)


def find_offers() -> Sequence[Offer]:
    """The families of the plugins of the node being called; outside of a workflow those of guidegraph-families."""
    if (list_offers := _offers.get()) is not None:
        return list_offers()
    if find_spec(PACKAGE) is None:
        return []
    return [Offer(family, OWN) for family in import_module(PACKAGE).guidegraph_families()]
