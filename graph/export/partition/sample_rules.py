"""Rules of operators for samples: the bits of their results, from the bits of their arguments.

An axis along which the bits of a tensor are equal has the size 1 in its tensor of bits.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor

from guidegraph.graph.export.user_frame import user_frame

SAMPLES = 7
"""A prime, so that no size of a reshape that a node fixes divides the batch; the bits of a byte hold as many."""

Bits: TypeAlias = Tensor
Rule: TypeAlias = "Callable[[Operator], Any]"


@dataclass(frozen=True)
class Blame:
    """The operator that joined samples, its FILE:LINE, and whether there is a rule for it."""

    operator: str
    place: str
    has_rule: bool


class Signature:
    """The parts of an operator's schema that count here. name: without its namespace and trailing underscore."""

    def __init__(self, func: Any) -> None:
        self.full_name = str(func.overloadpacket) if hasattr(func, "overloadpacket") else str(func)
        name = self.full_name.removeprefix("aten.")
        self.name = name[:-1] if name.endswith("_") and not name.startswith("__") else name
        arguments, returns = func._schema.arguments, func._schema.returns
        self.names = [argument.name for argument in arguments]
        self.defaults = {argument.name: argument.default_value for argument in arguments}
        self.written = [each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write]
        self.is_view = bool(returns) and all(
            each.alias_info is not None and not each.alias_info.is_write for each in returns
        )
        self.is_pointwise = torch.Tag.pointwise in func.tags


_signature = cache(Signature)


class Operator:
    """A call of an operator: its values by name, and the bits of its tensors."""

    def __init__(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        read: Callable[[Tensor], Bits],
        read_values: Callable[[Tensor], Tensor | None],
    ) -> None:
        self.func, self.args, self.kwargs, self.read, self.read_values = func, args, kwargs, read, read_values
        self.signature = _signature(func)
        self.name, self.names = self.signature.name, self.signature.names
        self.by_name = self.signature.defaults | dict(zip(self.names, args, strict=False)) | dict(kwargs)
        self.values = [*self.by_name.values()]
        self.tensors = [*list_tensors((*args, *kwargs.values()))]
        self.results: list[Tensor] = []

    @property
    def creates(self) -> bool:
        """Whether the values of its results depend on shapes alone."""
        overwrites = self.name in OVERWRITES and bool(self.signature.written) and len(self.tensors) == 1
        return overwrites or self.name in CREATES or self.name.startswith("new_")

    def writes(self, tensor: Tensor) -> bool:
        return any(self.by_name[name] is tensor for name in self.signature.written)

    def blame(self, has_rule: bool) -> Blame:
        return Blame(self.signature.full_name, user_frame(traceback.extract_stack()), has_rule)

    def run(self, first: Tensor) -> Any:
        """The operator on another first tensor."""
        return self.func(first, *self.args[1:], **self.kwargs)

    def with_bits(self, bits: Bits) -> Operator:
        """The same call with other bits of its first tensor."""
        first = self.values[0]

        def read(tensor: Tensor) -> Bits:
            return bits if tensor is first else self.read(tensor)

        copied = Operator(self.func, self.args, self.kwargs, read, self.read_values)
        copied.results = self.results
        return copied

    def apply(self) -> tuple[list[Bits], bool]:
        """The bits of the results, and whether there is a rule for the operator."""
        rule = RULES.get(self.name)
        if rule is None and self.signature.is_pointwise:
            rule = _pointwise
        if rule is not None and (made := rule(self)) is not None:
            bits = list(made) if isinstance(made, (list, tuple)) else [made] * len(self.results)
            return [_fit(each, result) for each, result in zip(bits, self.results, strict=False)], True
        every = reduce(torch.bitwise_or, (_union(self.read(each)).reshape(()) for each in self.tensors))
        return [every.reshape([1] * each.ndim) for each in self.results], False

    def bits_of(self, name: str | int) -> Bits:
        """The bits of an argument that is a tensor."""
        return self.read(self.values[name] if isinstance(name, int) else self.by_name[name])

    def bits_list(self) -> list[Bits]:
        return [self.read(each) for each in self.tensors]

    def dims(self, ndim: int, name: str = "dim") -> list[int]:
        """The axes that a setting names, all if it names none."""
        value = self.by_name.get(name, self.by_name.get("dims"))
        if value is None or (isinstance(value, (list, tuple)) and not value):
            return list(range(ndim))
        return [each % max(ndim, 1) for each in ([value] if isinstance(value, int) else value)]


def list_tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values and lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (each for each in value if isinstance(each, Tensor))


def _fit(bits: Bits, result: Tensor) -> Bits:
    """Bits with the axes of a result: absent leading ones have the size 1."""
    return bits.reshape([1] * (result.ndim - bits.ndim) + list(bits.shape)) if bits.ndim < result.ndim else bits


def _union(bits: Bits, dims: Iterable[int] | None = None) -> Bits:
    """Bits of all elements along axes, which keep the size 1."""
    for dim in range(bits.ndim) if dims is None else dims:
        if bits.shape[dim] > 1:
            several = [(bits & (1 << i)).amax(dim, keepdim=True) for i in range(SAMPLES)]
            bits = reduce(torch.bitwise_or, several)
    return bits


def shrink(bits: Bits) -> Bits:
    """Bits with the size 1 for each axis along which they are equal."""
    for dim in range(bits.ndim):
        first = bits.narrow(dim, 0, min(1, bits.shape[dim]))
        if bits.shape[dim] > 1 and bool((bits == first).all()):
            bits = first
    return bits


def count_samples(bits: Bits) -> int:
    return int(_union(bits).reshape(()).item()).bit_count()


def has_several(bits: Bits) -> bool:
    """Whether an element depends on two samples."""
    return bool((bits & (bits.to(torch.int16) - 1).to(torch.uint8)).any())


def _widen(bits: Bits, dim: int, size: int) -> Bits:
    return bits.expand([size if i == dim else each for i, each in enumerate(bits.shape)])


def _or(bits: Iterable[Bits]) -> Bits:
    return reduce(torch.bitwise_or, bits)


def _pointwise(op: Operator) -> Bits:
    if op.name == "copy":
        return op.bits_of("src")
    return _or(op.bits_list())


def _first(op: Operator) -> Bits:
    return op.bits_of(0)


def _fill(op: Operator) -> Bits:
    value = op.by_name["value"]
    bits = _union(op.read(value)).reshape(()) if isinstance(value, Tensor) else torch.zeros((), dtype=torch.uint8)
    return bits.reshape([1] * op.values[0].ndim)


def _reduce(op: Operator) -> Bits:
    """The union along the reduced axes, of all tensors."""
    ndim = op.values[0].ndim
    dims = op.dims(ndim) if "dim" in op.names else list(range(ndim))
    bits = _union(_or(_fit(each, op.values[0]) for each in op.bits_list()), dims)
    if op.results[0].ndim == ndim:
        return bits
    return bits.reshape([size for i, size in enumerate(bits.shape) if i not in dims])


def _along(op: Operator) -> Bits:
    """The union along axes that the results keep."""
    ndim = op.values[0].ndim
    return _union(_or(_fit(each, op.values[0]) for each in op.bits_list()), op.dims(ndim))


def _view(op: Operator) -> Bits:
    return _reshape(op.bits_of(0), op.values[0].shape, op.results[0].shape)


def _reshape(bits: Bits, old: Sequence[int], new: Sequence[int]) -> Bits:
    """Bits of the elements in another shape; equal leading and trailing axes stay."""
    if bits.numel() == 1:
        return bits.reshape([1] * len(new))
    before = 0
    while before < min(len(old), len(new)) and old[before] == new[before]:
        before += 1
    after = 0
    while after < min(len(old), len(new)) - before and old[-1 - after] == new[-1 - after]:
        after += 1
    stop = len(old) - after
    head, middle, tail = bits.shape[:before], bits.shape[before:stop], bits.shape[stop:]
    inner = new[before : len(new) - after]
    if math.prod(middle) == 1:
        return bits.reshape([*head, *[1] * len(inner), *tail])
    full = bits.expand([*head, *old[before:stop], *tail])
    return shrink(full.reshape([*head, *inner, *tail]))


def _permute(op: Operator) -> Bits:
    return op.bits_of(0).permute(op.by_name["dims"])


def _transpose(op: Operator) -> Bits:
    bits = op.bits_of(0)
    if op.name == "t":
        return bits.t()
    return bits.transpose(op.by_name["dim0"], op.by_name["dim1"])


def _unsqueeze(op: Operator) -> Bits:
    return op.bits_of(0).unsqueeze(op.by_name["dim"])


def _squeeze(op: Operator) -> Bits:
    bits, shape = op.bits_of(0), op.values[0].shape
    dims = op.dims(len(shape))
    return bits.reshape([bits.shape[i] for i in range(len(shape)) if i not in dims or shape[i] != 1])


def _expand(op: Operator) -> Bits:
    return _fit(op.bits_of(0), op.results[0])


def _on_axis(op: Operator) -> Any:
    """Operators that select along one axis: the bits of all elements there, through the operator itself."""
    bits, shape = op.bits_of(0), op.values[0].shape
    dim = op.by_name["dim"] % len(shape)
    if bits.shape[dim] > 1:
        made = op.run(_widen(bits, dim, shape[dim]))
        return [shrink(each) for each in made] if isinstance(made, (list, tuple)) else shrink(made)
    if op.name in ("select", "unbind"):
        return bits.squeeze(dim)
    return bits


def _whole(op: Operator) -> Bits:
    """Operators that move elements: the bits of all elements, through the operator itself."""
    full = op.bits_of(0).expand(op.values[0].shape).contiguous()
    if op.name == "constant_pad_nd":
        return shrink(op.func(full, op.by_name["pad"], 0))
    return shrink(op.run(full))


def _repeat(op: Operator) -> Bits:
    bits = _fit(op.bits_of(0), op.results[0])
    return bits.repeat([count if size > 1 else 1 for count, size in zip(op.values[1], bits.shape, strict=True)])


def _cat(op: Operator) -> Bits:
    tensors = [each for each in op.values[0] if each.ndim == op.results[0].ndim]
    bits = [op.read(each) for each in tensors]
    if op.name == "stack":
        dim = op.by_name["dim"] % op.results[0].ndim
        tensors = op.values[0]
        bits, sizes = [op.read(each).unsqueeze(dim) for each in tensors], [1] * len(tensors)
    else:
        dim = op.by_name["dim"] % op.results[0].ndim
        sizes = [each.shape[dim] for each in tensors]
    largest = [max(each.shape[i] for each in bits) for i in range(op.results[0].ndim)]
    widened = [
        each.expand([size if i == dim else most for i, most in enumerate(largest)])
        for each, size in zip(bits, sizes, strict=True)
    ]
    return shrink(torch.cat(widened, dim))


def _multiply(op: Operator) -> Bits:
    """Products of matrices: rows of the first and columns of the second."""
    *added, a, b = (op.read(each) for each in op.tensors)
    made = _or([_union(a, [a.ndim - 1]), _union(b, [b.ndim - 2])])
    if op.name == "addbmm":
        made = _union(made, [0]).squeeze(0)
    return _or([made, *added])


def _multiply_vector(op: Operator) -> Bits:
    """A matrix, or a vector, times a vector."""
    a, b = op.bits_of(0), op.bits_of(1)
    return _union(a, [a.ndim - 1]).squeeze(-1) | _union(b).reshape(())


def _apply_linear(op: Operator) -> Bits:
    x, weight = op.bits_of("input"), op.bits_of("weight")
    made = _or([_union(x, [x.ndim - 1]), _union(weight, [1]).reshape(-1)])
    return made if op.by_name["bias"] is None else _or([made, op.bits_of("bias")])


def _compare(op: Operator) -> Bits:
    """Losses of elements, their mean, or their sum."""
    bits = _pointwise(op)
    return bits if op.results[0].ndim else _union(bits).reshape(())


def _convolve(op: Operator) -> Bits | None:
    x, weight, bias = (op.by_name.get(name) for name in ("input", "weight", "bias"))
    if x is None or weight is None or x.ndim < 3:
        return None
    ndim, groups = x.ndim, op.by_name["groups"]
    bits, kernel = _union(op.read(x), range(2, ndim)), op.read(weight)
    if bits.shape[1] == 1 or groups == 1 or op.by_name.get("transposed"):
        bits = _union(bits, [1])
        kernel = _union(kernel) if op.by_name.get("transposed") else _union(kernel, range(1, ndim)).transpose(0, 1)
    else:
        kernel = _union(kernel, range(1, ndim)).expand([weight.shape[0], *[1] * (ndim - 1)])
        grouped = _widen(bits, 1, x.shape[1]).reshape(bits.shape[0], groups, -1)
        joined = _or([_union(grouped, [2]), kernel.reshape(1, groups, -1)])
        bits = kernel = shrink(joined.reshape(bits.shape[0], weight.shape[0], *[1] * (ndim - 2)))
    made = _or([bits, kernel])
    return made if bias is None else _or([made, op.read(bias).reshape([1, -1, *[1] * (ndim - 2)])])


def _convolve_back(op: Operator) -> list[Bits]:
    grad, x, weight = (op.bits_of(name) for name in ("grad_output", "input", "weight"))
    ndim = grad.ndim
    every = _union(_or([_union(grad), _union(x)]))
    back = _union(grad, range(1, ndim)) | _union(weight).reshape([1] * ndim)
    return [back, every, every.reshape(-1)]


def _normalise(op: Operator) -> list[Bits]:
    """Group norm and layer norm, over the axes of a sample or the last ones, and their gradients."""
    is_group, shape = "group" in op.name, op.values[0].shape
    ndim = len(shape)
    axes = range(1, ndim) if is_group else range(ndim - len(op.by_name["normalized_shape"]), ndim)
    inside = torch.zeros([1] * ndim, dtype=torch.uint8)
    for each in op.tensors:
        bits = op.read(each)
        if each.ndim == ndim:
            inside = inside | _union(bits, axes)
        elif is_group and each.ndim == 2:  # a group's statistics, which the gradient reads
            inside = inside | _union(bits, [1]).reshape([-1, *[1] * (ndim - 1)])
        else:
            inside = inside | _union(bits).reshape([1] * ndim)
    if op.name.endswith("_backward"):
        return [inside, *[_union(inside).reshape([1] * each.ndim) for each in op.results[1:]]]
    return [inside, *[inside.reshape(inside.shape[: each.ndim]) for each in op.results[1:]]]


def _normalise_batch(op: Operator) -> list[Bits]:
    """Batch norm: by statistics of the batch in training, and of the weights otherwise."""
    bits, ndim = op.bits_of(0), op.values[0].ndim
    trains = op.by_name.get("training", "no_training" not in op.name and "no_update" not in op.name)
    statistics = [_union(op.read(each)).reshape([1] * ndim) for each in op.tensors[1:]]
    made = _union(bits, [i for i in range(ndim) if i != 1]) if trains else bits
    every = _union(bits) if trains else torch.zeros([1] * ndim, dtype=torch.uint8)
    return [_or([made, *statistics]), *[every.reshape([1] * each.ndim) for each in op.results[1:]]]


def _spatial(op: Operator) -> Bits:
    """Pooling, resizing and padding: the axes before the last ones of a map stay."""
    match = re.search(r"(\d)d", op.name)
    assert match is not None
    count, result = int(match.group(1)), op.results[0]
    maps = [op.read(each) for each in op.tensors if each.ndim == result.ndim]
    return _or(_union(each, range(each.ndim - count, each.ndim)) for each in maps)


def _sample_grid(op: Operator) -> Bits:
    x, grid = op.bits_of(0), op.bits_of(1)
    return _or([_union(x, range(2, x.ndim)), _union(grid, range(1, grid.ndim))])


def _columns(op: Operator) -> Bits:
    bits = op.bits_of(0)
    return _union(bits, range(1, bits.ndim)).reshape([bits.shape[0], *[1] * (op.results[0].ndim - 1)])


def _attend(op: Operator) -> list[Bits] | None:
    query = op.values[0]
    every = []
    for each in op.tensors:
        if each.ndim != query.ndim:
            return None
        every.append(_union(op.read(each), [query.ndim - 2, query.ndim - 1]))
    made = _or(every)
    return [made if each.ndim == query.ndim else made.reshape(made.shape[: each.ndim]) for each in op.results]


def _take(op: Operator) -> Bits | None:
    """x[indices]: bits at the indices that are the same in every call, and of all elements along other indexed axes."""
    indices = op.by_name["indices"]
    if any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in indices):
        return None
    bits, shape = op.bits_of(0), op.values[0].shape
    places: list[Tensor | None] = []
    for dim, each in enumerate(indices):
        values = None if each is None or bits.shape[dim] == 1 else op.read_values(each)
        if values is not None:
            bits = _widen(bits, dim, shape[dim])
        elif each is not None:
            bits = _union(bits, [dim])
        places.append(
            None if each is None else torch.zeros([1] * each.ndim, dtype=torch.int64) if values is None else values
        )
    taken = op.func(bits, places)
    count = op.results[0].ndim - op.values[0].ndim + sum(each is not None for each in indices)
    dims = [dim for dim, each in enumerate(indices) if each is not None]
    position = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    index = _or(op.read(indices[dim]) for dim in dims)
    index = index.reshape([*[1] * (count - index.ndim), *index.shape, *[1] * (taken.ndim - position - count)])
    return shrink(taken | index)


def _put(op: Operator) -> Bits | None:
    """x with values at indices of adjacent axes."""
    indices, own = op.by_name["indices"], op.bits_of(0)
    if any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in indices):
        return None
    dims = [dim for dim, each in enumerate(indices) if each is not None]
    if dims != list(range(dims[0], dims[-1] + 1)):
        return None
    count = max(indices[dim].ndim for dim in dims)
    values = op.bits_of("values")
    values = values.reshape([1] * (own.ndim - len(dims) + count - values.ndim) + list(values.shape))
    values = _union(values, range(dims[0], dims[0] + count))
    kept = [size for i, size in enumerate(values.shape) if not dims[0] <= i < dims[0] + count]
    values = values.reshape([*kept[: dims[0]], *[1] * len(dims), *kept[dims[0] :]])
    index = _union(_or(_union(op.read(indices[dim])).reshape(()) for dim in dims))
    return own | values | index.reshape([1] * own.ndim)


def _embed(op: Operator) -> Bits:
    return op.bits_of("indices").unsqueeze(-1) | _union(op.bits_of("weight"), [0]).reshape(-1)


def _gather(op: Operator) -> Bits:
    index, dim = op.by_name["index"], op.by_name["dim"] % max(op.values[0].ndim, 1)
    bits = _union(op.bits_of(0), [dim])
    if op.name == "index_select":
        return bits | op.read(index).reshape([-1 if i == dim else 1 for i in range(bits.ndim)])
    cut = [slice(0, size) if own > 1 else slice(None) for own, size in zip(bits.shape, index.shape, strict=True)]
    return bits[tuple(cut)] | op.read(index)


def _scatter(op: Operator) -> Bits | None:
    own, dim = op.bits_of(0), op.by_name["dim"] % op.values[0].ndim
    moved = [op.by_name["index"]] + [
        value for name in ("src", "source") if isinstance(value := op.by_name.get(name), Tensor)
    ]
    shape = op.values[0].shape
    bits = [own]
    for each in moved:
        marks = op.read(each)
        if each.ndim != len(shape):
            marks = _union(marks).reshape([1] * len(shape))
        elif any(marks.shape[i] > 1 and each.shape[i] != shape[i] for i in range(len(shape)) if i != dim):
            return None
        bits.append(_union(marks, [dim]))
    return _or(bits)


def _pad_slice(op: Operator) -> Bits:
    """The gradient of a slice or of a selection: zeros elsewhere."""
    grad, sizes = op.bits_of(0), op.by_name["input_sizes"]
    dim = op.by_name["dim"] % len(sizes)
    if op.name == "select_backward":
        grad = grad.unsqueeze(dim)
    shape = [sizes[i] if i == dim else size for i, size in enumerate(grad.shape)]
    full = torch.zeros(shape, dtype=torch.uint8)
    if op.name == "select_backward":
        full.narrow(dim, op.by_name["index"] % sizes[dim], 1).copy_(grad)
    else:
        cut = slice(op.by_name["start"], op.by_name["end"], op.by_name["step"])
        index = torch.arange(sizes[dim])[cut]
        full.index_copy_(dim, index, _widen(grad, dim, len(index)))
    return shrink(full)


def _by_matrix(op: Operator) -> list[Bits]:
    """Operators on the matrices of the last two axes."""
    lead = op.values[0].ndim - 2
    bits = _or(_union(each, range(lead, each.ndim)) for each in op.bits_list())
    return [bits.reshape([*bits.shape[:lead], *[1] * (each.ndim - lead)]) for each in op.results]


def _distances(op: Operator) -> Bits:
    a, b = op.bits_of(0), op.bits_of(1)
    return _union(a, [a.ndim - 1]) | _union(b, [b.ndim - 1]).transpose(-1, -2)


def _complex_view(op: Operator) -> Bits:
    bits = op.bits_of(0)
    return bits.unsqueeze(-1) if op.name == "view_as_real" else _union(bits, [bits.ndim - 1]).squeeze(-1)


def _search(op: Operator) -> Bits:
    table, x = (op.by_name[name] for name in (("boundaries", "self") if op.name == "bucketize" else op.names[:2]))
    if not isinstance(x, Tensor):
        return _union(op.read(table)).reshape(())
    bits = op.read(table)
    return op.read(x) | (_union(bits) if bits.ndim == 1 else _union(bits, [bits.ndim - 1]))


CREATES = frozenset(
    ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like", "zero")
)
"""Operators whose results have the shape of a tensor, and nothing of its values."""

OVERWRITES = frozenset(("fill", "normal", "uniform", "exponential", "random"))
"""Operators that give a tensor values that depend on nothing else, where they write in place."""

PICKS = frozenset(("slice", "select", "split", "split_with_sizes", "unbind"))
"""Operators that leave out samples."""


RULES: dict[str, Rule] = {
    name: rule
    for names, rule in {
        "copy where masked_fill lerp native_dropout native_dropout_backward bernoulli addcmul addcdiv sigmoid_backward "
        "tanh_backward silu_backward gelu_backward threshold_backward elu_backward leaky_relu_backward clamp "
        "softplus_backward hardtanh_backward hardsigmoid_backward hardswish_backward logit_backward mish_backward "
        "floor_divide hardswish log_sigmoid_forward log_sigmoid_backward mse_loss_backward huber_loss_backward "
        "smooth_l1_loss_backward "
        "polar complex prelu _prelu_kernel fmod remainder copysign": _pointwise,
        "clone _to_copy detach alias lift lift_fresh lift_fresh_copy contiguous view_of conj _conj _neg_view "
        "positive resolve_conj resolve_neg _efficientzerotensor": _first,
        "fill": _fill,
        "sum nansum mean amax amin prod any all argmax argmin max min median nanmedian mode kthvalue var std var_mean "
        "std_mean logsumexp linalg_vector_norm norm count_nonzero aminmax": _reduce,
        "sort topk cumsum cumprod cummax cummin logcumsumexp _softmax softmax _log_softmax log_softmax _safe_softmax "
        "_softmax_backward_data _log_softmax_backward_data flip roll renorm _fft_c2c _fft_r2c _fft_c2r _cummax_helper "
        "glu linalg_cross": _along,
        "view _unsafe_view reshape _reshape_alias flatten unflatten view_copy": _view,
        "permute": _permute,
        "transpose t": _transpose,
        "unsqueeze": _unsqueeze,
        "squeeze": _squeeze,
        "expand": _expand,
        "slice select split split_with_sizes unbind narrow": _on_axis,
        "constant_pad_nd diagonal pixel_shuffle pixel_unshuffle channel_shuffle tril triu unfold diag_embed": _whole,
        "repeat": _repeat,
        "cat stack": _cat,
        "mm bmm addmm baddbmm addbmm": _multiply,
        "mv dot vdot": _multiply_vector,
        "linear": _apply_linear,
        "mse_loss smooth_l1_loss huber_loss binary_cross_entropy": _compare,
        "convolution mkldnn_convolution _convolution": _convolve,
        "convolution_backward": _convolve_back,
        "native_group_norm native_layer_norm native_group_norm_backward native_layer_norm_backward "
        "_fused_rms_norm": _normalise,
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
        "_batch_norm_no_update cudnn_batch_norm": _normalise_batch,
        "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices max_pool2d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest1d "
        "upsample_nearest2d "
        "upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d "
        "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_trilinear3d reflection_pad1d "
        "reflection_pad2d replication_pad1d replication_pad2d avg_pool2d_backward _adaptive_avg_pool2d_backward "
        "max_pool2d_with_indices_backward upsample_nearest2d_backward _upsample_nearest_exact2d_backward "
        "upsample_bilinear2d_backward upsample_bicubic2d_backward _upsample_bilinear2d_aa_backward "
        "_upsample_bicubic2d_aa_backward reflection_pad2d_backward replication_pad2d_backward": _spatial,
        "grid_sampler_2d grid_sampler_3d": _sample_grid,
        "im2col col2im": _columns,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math": _attend,
        "index _unsafe_index": _take,
        "index_put _index_put_impl _unsafe_index_put": _put,
        "embedding": _embed,
        "gather index_select": _gather,
        "scatter scatter_add scatter_reduce index_add index_copy": _scatter,
        "slice_backward select_backward": _pad_slice,
        "linalg_inv_ex linalg_solve_ex _linalg_svd linalg_qr _linalg_eigh linalg_cholesky_ex _linalg_det "
        "linalg_lu_factor_ex": _by_matrix,
        "_cdist_forward _euclidean_dist": _distances,
        "view_as_real view_as_complex": _complex_view,
        "bucketize searchsorted": _search,
    }.items()
    for name in names.split()
}
"""By an operator's name without its trailing underscore: the bits of its results, or None for a case without a rule."""
