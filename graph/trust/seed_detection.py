"""Detection of calls that seed one of the process's random generators rather than only draw from it.

A node may draw from the process's generators: that is randomness without a seed. A node that *seeds* them determines
all later draws, in other nodes and in other runs. torch's CPU generator, Python's and NumPy's are all MT19937
(Matsumoto and Nishimura, 1998): a block of 624 words and a position in it. A draw advances the position, and computes
the next block from the last one; a seed creates an unrelated block. So the two are distinguished by computing the
blocks that follow the state before the call.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import import_module
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

WORDS = 624
MAX_BLOCKS = 4096
"""The number of blocks (2.6 million numbers) that a call may draw before it is assumed to have seeded the generator."""
NEAR_BLOCKS = 64
"""The number of blocks (40,000 numbers) after torch's seed within which setting the same seed again is detected."""
_BITS = 32 * WORDS
_TORCH_WORDS = struct.Struct(f"<Qii Q{WORDS}Q")
"""The start of torch's state: seed, number of words left, whether it is seeded, next position, words."""
_TORCH_NORMALS = struct.Struct("<ddd i4x f?3x")
"""The end of torch's state: three numbers of Box and Muller, of which the second is kept for the next draw, whether it
is, and a kept number of single precision."""
_TORCH_MEMORY = struct.Struct(f"<Qi?3xI{WORDS}I4x f?3x d?7x")
"""torch's generator in memory: seed, number of words left, whether it is seeded, next position, words, and the kept
normal numbers of single and double precision, each with whether it is one."""
_TORCH_KEPT = 24
"""The bytes at its end that hold the kept normal numbers."""
_TORCH_HEADER = 256
"""The bytes of torch's generator, from its start, among which its seed is looked for."""
_RARE_SEED = 0x5EED_0F6A_2A9B_4C71
_BYTES = 4 * WORDS + 4
_MARK = 64
"""The bytes of a state that are compared to see whether it changed: a new block has other words in all places, and a
draw from the same block another position."""
_Memory = ctypes.c_char * _BYTES
"""The memory of a generator's state. Its ``raw`` is a copy, made five times as fast as by ``ctypes.string_at``."""


class TwisterState(NamedTuple):
    """A state of MT19937: its block of 624 32-bit words, and the number of words already used."""

    words: tuple[int, ...]
    position: int


class GeneratorStates(NamedTuple):
    """States of the process's generators on the CPU: torch's, Python's with its stored Gaussian number, and NumPy's."""

    torch: bytes
    python: bytes | tuple[int, ...]
    gauss: float | None
    numpy: bytes


class StateMemory(Protocol):
    """The state of a generator. raw: a copy of it as it is now."""

    @property
    def raw(self) -> Any: ...


class Marks(NamedTuple):
    """The state of a generator in memory, and pieces of it, of which one changes whenever the state does."""

    pieces: tuple[StateMemory, ...]
    state: StateMemory


class _TorchState:
    """The state of torch's generator for the CPU, from its own function, which takes 1.3 µs."""

    @property
    def raw(self) -> bytes:
        import torch

        state: bytes = torch.default_generator.get_state().numpy().tobytes()
        return state


class _PythonState:
    """The state of Python's generator, from its own function, which takes 20 µs."""

    @property
    def raw(self) -> tuple[int, ...]:
        return _get_python_generator().getstate()[1]  # type: ignore[no-any-return]


def read_cuda_states() -> tuple[Any, ...]:
    """The states of the generators of all CUDA devices; none if CUDA is not in use."""
    import torch

    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():
        return ()
    return tuple(generator.get_state() for generator in torch.cuda.default_generators)


def restore_seeded(before: GeneratorStates, after: GeneratorStates) -> list[str]:
    """Restore each generator that was seeded in between and return their names; draws alone are not undone."""
    import torch

    seeded: list[str] = []
    if after.torch != before.torch:
        state = _pack_torch(before.torch)
        if _is_torch_seeded(state, _pack_torch(after.torch)):
            torch.default_generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
            seeded.append("torch's random generator")
    if after.python != before.python and is_seeded(_parse_python(before.python), _parse_python(after.python)):
        twister = _parse_python(before.python)
        random.setstate((3, (*twister.words, twister.position), before.gauss))
        seeded.append("Python's random generator")
    if (
        after.numpy != before.numpy
        and before.numpy
        and (not after.numpy or is_seeded(_parse_numpy(before.numpy), _parse_numpy(after.numpy)))
    ):
        _set_numpy(before.numpy)
        seeded.append("NumPy's random generator")
    return seeded


def restore_seeded_cuda(before: tuple[Any, ...], after: tuple[Any, ...]) -> list[str]:
    """As ``restore_seeded``, for the states from ``read_cuda_states``."""
    import torch

    seeded: list[str] = []
    for device, (old_state, new_state) in enumerate(zip(before, after, strict=False)):
        if _is_philox_seeded(old_state, new_state):
            torch.cuda.default_generators[device].set_state(old_state)
            seeded.append(f"torch's random generator of cuda:{device}")
    return seeded


def is_seeded(before: TwisterState, after: TwisterState) -> bool:
    """Whether draws alone cannot lead from one state to the other."""
    if after.words == before.words:
        return after.position < before.position
    target = next(_generate_blocks(after.words))
    blocks = _generate_blocks(before.words)
    next(blocks)
    return all(next(blocks) != target for _ in range(MAX_BLOCKS))


def _generate_blocks(words: tuple[int, ...]) -> Iterator[int]:
    """The output of this block and of each following one, as integers of 624 · 32 bits."""
    generator = random.Random()
    generator.setstate((3, (*words, 0), None))
    while True:
        yield generator.getrandbits(_BITS)


@cache
def find_python_generator() -> tuple[Marks, Any]:
    """The state of Python's generator, read from memory where its layout is known, and the generator itself."""
    generator = _get_python_generator()
    if not _has_known_layout():
        return _mark_state(_PythonState()), generator
    address = id(generator) + object.__basicsize__
    return Marks((_read_at(address, _MARK),), _Memory.from_address(address)), generator  # the position comes first


def _get_python_generator() -> Any:
    return random.random.__self__  # type: ignore[attr-defined]


def _has_known_layout() -> bool:
    """Whether Python's generator is laid out in memory as object header, int and 624 words, as in CPython."""
    if sys.implementation.name != "cpython" or random.Random.__basicsize__ < object.__basicsize__ + _BYTES:
        return False
    generator = random.Random(5489)
    numbers = generator.getstate()[1]
    position, *words = struct.unpack(f"=i{WORDS}I", ctypes.string_at(id(generator) + object.__basicsize__, _BYTES))
    return bool((*words, position) == numbers)


def _parse_python(numbers: bytes | tuple[int, ...]) -> TwisterState:
    if isinstance(numbers, bytes):
        position, *words = struct.unpack(f"=i{WORDS}I", numbers)
        return TwisterState(tuple(words), position)
    return TwisterState(numbers[:WORDS], numbers[WORDS])


def _parse_numpy(state: bytes) -> TwisterState:
    *words, position = struct.unpack(f"={WORDS}Ii", state)
    return TwisterState(tuple(words), position)


def _is_torch_seeded(before: bytes, after: bytes) -> bool:
    """Whether torch's generator was seeded.

    The state contains the seed; after the same seed again, the state is near that seed's first block.
    """
    import torch

    old_state, new_state = _parse_torch(before), _parse_torch(after)
    if old_state.words == new_state.words:
        return new_state.position < old_state.position
    seed = _read_torch_seed(before)
    if seed != _read_torch_seed(after):
        return True
    first = _parse_torch(torch.Generator().manual_seed(seed).get_state().numpy().tobytes())
    states = {next(_generate_blocks(twister.words)): twister for twister in (old_state, new_state)}
    matches = (states[block] for block in islice(_generate_blocks(first.words), NEAR_BLOCKS) if block in states)
    return next(matches, old_state) is new_state


def _read_torch_seed(state: bytes) -> int:
    return int(_TORCH_WORDS.unpack_from(state)[0])


def _parse_torch(state: bytes) -> TwisterState:
    _, left, _, _, *words = _TORCH_WORDS.unpack_from(state)
    return TwisterState(tuple(words), WORDS + 1 - left)  # 1 is left when all words are used and the next block is due


@cache
def find_torch_state() -> Marks:
    """The state of torch's generator for the CPU, read from memory where its layout is known."""
    import torch

    offset, generator = _find_torch_offset(), cast(Any, torch.default_generator)
    if offset is None:
        return _mark_state(_TorchState())
    address = generator._cdata + offset
    kept_numbers = _read_at(address + _TORCH_MEMORY.size - _TORCH_KEPT, _TORCH_KEPT)
    return Marks((_read_at(address, _MARK), kept_numbers), _read_at(address, _TORCH_MEMORY.size))


def _read_at(address: int, size: int) -> StateMemory:
    return (ctypes.c_char * size).from_address(address)


def _mark_state(state: StateMemory) -> Marks:
    return Marks((state,), state)


def _find_torch_offset() -> int | None:
    """The position of the state in torch's generators, checked with one that has a rare seed and rare kept numbers.

    Nothing is drawn, since a mode such as that of fake tensors would change it.
    """
    import torch

    generator: Any = torch.Generator()
    generator.manual_seed(_RARE_SEED)
    address = getattr(generator, "_cdata", None)
    if sys.implementation.name != "cpython" or not isinstance(address, int):
        return None
    offset = ctypes.string_at(address, _TORCH_HEADER).find(_RARE_SEED.to_bytes(8, sys.byteorder))
    state = generator.get_state()
    if offset < 0 or state.numel() != _TORCH_WORDS.size + _TORCH_NORMALS.size:
        return None
    memory = (ctypes.c_char * _TORCH_MEMORY.size).from_address(address + offset)
    for left, kept in ((1, (0.0, 0.0, 0.0, False, 0.0, False)), (100, (0.0, 0.625, 0.0, True, 0.375, True))):
        words = _TORCH_WORDS.unpack_from(state.numpy())[3:]
        packed = _TORCH_WORDS.pack(_RARE_SEED, left, 1, WORDS + 1 - left, *words[1:]) + _TORCH_NORMALS.pack(*kept)
        state.numpy()[:] = list(packed)
        generator.set_state(state)
        if _pack_torch(memory.raw) != packed or generator.get_state().numpy().tobytes() != packed:
            return None
    return offset


def _pack_torch(state: bytes) -> bytes:
    """torch's state as ``get_state`` returns it, from its memory; a state of that form is returned as it is."""
    if len(state) != _TORCH_MEMORY.size:
        return state
    *words, single, has_single, double, has_double = _TORCH_MEMORY.unpack(state)
    kept = (0.0, double if has_double else 0.0, 0.0, has_double, single if has_single else 0.0, has_single)
    return _TORCH_WORDS.pack(*words) + _TORCH_NORMALS.pack(*kept)


def _is_philox_seeded(before: Any, after: Any) -> bool:
    """Whether CUDA's generator was seeded. Its state is a seed and an offset, which grows with each draw."""
    (old_seed, old_offset), (seed, offset) = (struct.unpack("<QQ", s.numpy().tobytes()) for s in (before, after))
    return bool(seed != old_seed or offset < old_offset)


@cache
def import_numpy() -> Callable[[], Any]:
    """The function that gives NumPy's generator, from a module that NumPy imports at its first use.

    The import waits for one that another thread has begun.
    """
    get_generator: Callable[[], Any] = import_module("numpy.random").get_bit_generator
    return get_generator


@lru_cache(maxsize=1)
def find_numpy_state(generator: Any) -> Marks:
    """The state of a generator of NumPy's, which the cache keeps alive; empty if that is not MT19937."""
    if type(generator).__name__ != "MT19937":
        return _mark_state((ctypes.c_char * 0)())
    address = generator.ctypes.state_address
    return Marks((_read_at(address + _BYTES - _MARK, _MARK),), _Memory.from_address(address))  # the position comes last


def _set_numpy(state: bytes) -> None:
    """Set the state of NumPy's generator; one of another kind is replaced by an MT19937."""
    module = sys.modules["numpy.random"]
    if type(module.get_bit_generator()).__name__ != "MT19937":
        module.set_bit_generator(module.MT19937())
    ctypes.memmove(module.get_bit_generator().ctypes.state_address, state, _BYTES)
