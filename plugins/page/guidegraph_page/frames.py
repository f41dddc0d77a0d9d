"""Previews of a run: the newest x̂0 that a sampler's step offered, as a PNG.

A latent is decoded by the autoencoder that the workflow decodes the loop's result with, if it is in the cache. Frames
take at most ``SHARE`` of the run's time, the time to send and draw them included: a step whose frame would take more
is left out. So are all steps while no page is open.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.ir import Graph, list_calls
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.sources import Output
from guidegraph.graph.types import PortType, is_tensor
from guidegraph.nodes.output_formats import to_pixels
from guidegraph.nodes.types import Autoencoder
from guidegraph_runtime.printing import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE = 0.01
SENDING = 0.01
"""Seconds of a processor, about, to send a frame and to draw it in a browser on the same machine."""
LARGEST_SIDE = 512
CHANNELS = 3


@dataclass(frozen=True)
class ValueKeys:
    """Where a cache has the values of a run: the digest and the types of outputs of each operation, by its key.

    It holds none of the values, and a plan may: the state that a stopped run goes on from.
    """

    digests: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, PortType]]

    @classmethod
    def of(cls, plan: Plan) -> Self:
        return cls(
            {key: plan.digests[key] for key in plan.ops}, {key: dict(op.outputs) for key, op in plan.ops.items()}
        )


class RunCache(MemoryCache):
    """The cache of the page's runs. It knows the digests of the current run, and so finds values by operation.

    plan: that of the current run; ``None`` before it has one, and between runs.
    """

    def __init__(self, limit: int):
        super().__init__(limit)
        self.plan: Plan | None = None

    def begin(self, plan: Plan) -> None:
        self.plan = plan

    def find_value(self, output: Output) -> Any:
        """The value of an output of the current run; ``None`` if it is not in the cache."""
        digest = self.plan.digests.get(output.op) if self.plan else None
        values = self.get(digest) if digest else None
        if self.plan is None or output.op not in self.plan.ops or values is None:
            return None
        return values[[*self.plan.ops[output.op].outputs].index(output.name)]

    def read_values(self, keys: ValueKeys, key: str) -> dict[str, Any]:
        """The values of an operation's outputs in a run, by name; empty if not kept. Any thread may call it."""
        digest = keys.digests.get(key)
        entry = self._entries.get(digest) if digest else None
        return dict(zip(keys.outputs[key], entry[0], strict=True)) if entry else {}


def find_decoder(graph: Graph) -> Output | None:
    """The autoencoder of the first node at the top level that reads one and depends on a loop; ``None`` without one."""
    after_loop = {*graph.loops}
    for call in list_calls(graph.ops.values()):
        if after_loop.isdisjoint(call.dependencies):
            continue
        after_loop.add(call.key)
        for name, source in call.links():
            port = call.spec.ports.get(name)
            if port is not None and Autoencoder in port.type.alternatives and isinstance(source, Output):
                return source
    return None


class FrameMaker:
    """A viewer of a run that makes frames. png: the newest; count: their number so far; seconds: their time so far,
    sending included.

    is_watched: whether anybody would see a frame now.
    """

    def __init__(self, graph: Graph, cache: RunCache, is_watched: Callable[[], bool] = lambda: True):
        self._decoder, self._cache, self._is_watched = find_decoder(graph), cache, is_watched
        self._started, self._last = time.perf_counter(), 0.0
        self.png, self.count, self.seconds = b"", 0, 0.0
        self._pending: Any = None

    def __call__(self, value: Any) -> None:
        now = time.perf_counter()
        if not self._is_watched() or self.seconds + self._last > SHARE * (now - self._started):
            self._pending = value
            return
        self._show(value)
        self._last = time.perf_counter() - now + SENDING
        self.seconds += self._last

    def finish(self) -> None:
        """Make the frame of the newest value, if it was left out."""
        if self._pending is not None:
            self._show(self._pending)

    def forget(self) -> None:
        """Let go of the newest value: a run that has ended is kept with its frame, and not with its samples."""
        self._pending = None

    def _show(self, value: Any) -> None:
        self._pending = None
        png = self._make(value)
        if png:
            self.png, self.count = png, self.count + 1

    def _make(self, value: Any) -> bytes:
        """The PNG of the first sample; empty if it cannot be shown as a picture."""
        try:
            picture = value[:1]
            if self._decoder is not None:
                autoencoder = self._cache.find_value(self._decoder)
                if autoencoder is None:
                    return b""
                picture = autoencoder.decode(picture.float())
            return encode_first(picture)
        except Exception:  # a latent of another autoencoder, or no memory for a preview: the run goes on
            return b""


def is_picture(value: Any) -> bool:
    """Whether a value has the form of pictures, (B, 3, H, W)."""
    if not is_tensor(value) or not has_numbers(value) or not value.is_floating_point():
        return False
    return bool(value.ndim == 4 and value.shape[1] == CHANNELS and value.numel())


def encode_first(value: Any) -> bytes:
    """The first of a batch of pictures (B, 3, H, W) in [-1, 1] as a PNG; empty for anything else."""
    if not is_picture(value):
        return b""
    picture = value[0].float()
    return encode_png(to_pixels(picture.clamp(-1, 1))) if bool(picture.isfinite().all()) else b""


def encode_png(pixels: NDArray[Any]) -> bytes:
    """A small PNG of pixels (H, W, 3), uint8, written fast."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


MAX_LENGTH = 80
MAX_PARTS = 4
MAX_LINES = 8
MAX_ELEMENTS = 1 << 24
"""The range of a larger tensor is not computed: the run goes on meanwhile."""


def describe_value(value: Any) -> list[str]:
    """A value in a few lines: a tensor by shape, dtype and range, others by their tensors, their text or their type."""
    if is_tensor(value):
        return [_describe_tensor(value)]
    if value is None or isinstance(value, (bool, int, float, str, Path)):
        try:
            text = str(value)
        except ValueError:  # Python writes no integer of more than 4,300 digits
            assert isinstance(value, int)
            text = f"an integer of {value.bit_length()} bits"
        return [_shorten(text)]
    parts = [(name, part) for name, part in _iterate_parts(value) if is_tensor(part)]
    lines = [
        f"{name}: {_describe_tensor(part)}" if name else _describe_tensor(part) for name, part in parts[:MAX_PARTS]
    ]
    if isinstance(value, Sequence | Mapping):
        return [f"{type(value).__name__} of {len(value)}", *lines]
    return [type(value).__name__, *lines]


def describe_preview(preview: str | bytes | None) -> list[str]:
    """The lines of a plugin's preview; none for a picture."""
    lines = preview.splitlines() if isinstance(preview, str) else []
    return [_shorten(line) for line in lines[:MAX_LINES]]


def _iterate_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        yield from (("", part) for part in value)
    elif is_dataclass(value):
        yield from ((item.name, getattr(value, item.name, None)) for item in fields(value))


def has_numbers(tensor: Any) -> bool:
    """Whether the elements of a tensor can be read one by one: it is dense, and neither quantised, nested nor meta."""
    is_special = tensor.is_meta or tensor.is_quantized or tensor.is_nested
    return str(tensor.layout) == "torch.strided" and not is_special


def _describe_tensor(tensor: Any) -> str:
    """Shape and dtype; the range of the finite elements of a tensor that is dense, real and not too large."""
    has_shape = not tensor.is_nested or str(tensor.layout) != "torch.strided"
    shape = f"({', '.join(map(str, tensor.shape))})" if has_shape else "nested"
    text = f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
    if not has_numbers(tensor) or tensor.is_complex() or not 0 < tensor.numel() <= MAX_ELEMENTS:
        return text
    numbers = tensor.detach()
    try:
        if not numbers.is_floating_point() or numbers.itemsize < 4:  # float8 has no isfinite
            numbers = numbers.float()
    except NotImplementedError:  # of a dtype that is only storage
        return text
    if numbers.numel() == 1:
        return f"{text}, {numbers.item():.4g}"
    finite = numbers[numbers.isfinite()]
    parts = [text]
    if finite.numel():
        parts.append(" to ".join(f"{float(end):.4g}" for end in finite.aminmax()))
    if wrong := numbers.numel() - finite.numel():
        parts.append(f"{wrong} not finite")
    return ", ".join(parts)


def _shorten(text: str) -> str:
    text = visible(text)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"
