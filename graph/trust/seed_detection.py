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
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import islice
from typing import Any, NamedTuple, cast

WORDS = 624
MAX_BLOCKS = 4096
"""The number of blocks (2.6 million numbers) that a call may draw before it is assumed to have seeded the generator."""
NEAR_BLOCKS = 64
"""The number of blocks (40,000 numbers) after torch's seed within which setting the same seed again is detected."""
_BITS = 32 * WORDS
_TORCH_WORDS = struct.Struct(f"<Qii Q{WORDS}Q")
"""The start of torch's state: seed, number of words left, whether it is seeded, next position, words."""
_BYTES = 4 * WORDS + 4
_Memory = ctypes.c_char * _BYTES
"""The memory of a generator's state. Its ``raw`` is a copy, made five times as fast as by ``ctypes.string_at``."""


class TwisterState(NamedTuple):
    """A state of MT19937: its block of 624 32-bit words, and the number of words already used."""

    words: tuple[int, ...]
    position: int


class GeneratorStates(NamedTuple):
    """States of the process's generators: torch's for the CPU and each CUDA device in use, Python's and NumPy's."""

    torch: bytes
    cuda: tuple[Any, ...]
    python: tuple[bytes | tuple[int, ...], Any]
    numpy: bytes


def read_generators() -> GeneratorStates:
    """Read the current states of all generators. torch is imported already."""
    import torch

    return GeneratorStates(
        torch.default_generator.get_state().numpy().tobytes(),
        _read_cuda_states(),
        _read_python_state(),
        _read_numpy_state(),
    )


def restore_seeded(before: GeneratorStates) -> list[str]:
    """Restore each generator that was seeded since ``before`` and return their names; draws alone are not undone."""
    after = read_generators()
    if not after.cuda and after == before:
        return []
    import torch

    seeded: list[str] = []
    if after.torch != before.torch and _is_torch_seeded(before.torch, after.torch):
        torch.default_generator.set_state(torch.frombuffer(bytearray(before.torch), dtype=torch.uint8))
        seeded.append("torch's random generator")
    for device, (old_state, new_state) in enumerate(zip(before.cuda, after.cuda, strict=False)):
        if _is_philox_seeded(old_state, new_state):
            torch.cuda.default_generators[device].set_state(old_state)
            seeded.append(f"torch's random generator of cuda:{device}")
    if after.python != before.python and is_seeded(_parse_python(before.python), _parse_python(after.python)):
        twister = _parse_python(before.python)
        random.setstate((3, (*twister.words, twister.position), before.python[1]))
        seeded.append("Python's random generator")
    if (
        after.numpy != before.numpy
        and before.numpy
        and is_seeded(_parse_numpy(before.numpy), _parse_numpy(after.numpy))
    ):
        _set_numpy(before.numpy)
        seeded.append("NumPy's random generator")
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


def _read_python_state() -> tuple[bytes | tuple[int, ...], Any]:
    """Position and words, and the stored Gaussian number; read from memory, since getstate() takes 20 µs."""
    generator, memory = _find_python_generator()
    if memory is None:
        _, numbers, gauss = generator.getstate()
        return numbers, gauss
    return memory.raw, generator.gauss_next


@cache
def _find_python_generator() -> tuple[Any, Any]:
    """Python's generator, and the memory with its state; None if its layout is unknown."""
    generator: Any = random.random.__self__  # type: ignore[attr-defined]
    return generator, _Memory.from_address(id(generator) + object.__basicsize__) if _has_known_layout() else None


def _has_known_layout() -> bool:
    """Whether Python's generator is laid out in memory as object header, int and 624 words, as in CPython."""
    if sys.implementation.name != "cpython" or random.Random.__basicsize__ < object.__basicsize__ + _BYTES:
        return False
    generator = random.Random(5489)
    numbers = generator.getstate()[1]
    position, *words = struct.unpack(f"=i{WORDS}I", ctypes.string_at(id(generator) + object.__basicsize__, _BYTES))
    return bool((*words, position) == numbers)


def _parse_python(state: tuple[bytes | tuple[int, ...], Any]) -> TwisterState:
    numbers = state[0]
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


def _is_philox_seeded(before: Any, after: Any) -> bool:
    """Whether CUDA's generator was seeded. Its state is a seed and an offset, which grows with each draw."""
    (old_seed, old_offset), (seed, offset) = (struct.unpack("<QQ", s.numpy().tobytes()) for s in (before, after))
    return bool(seed != old_seed or offset < old_offset)


def _read_cuda_states() -> tuple[Any, ...]:
    import torch

    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():
        return ()
    return tuple(generator.get_state() for generator in torch.cuda.default_generators)


def _read_numpy_state() -> bytes:
    """NumPy's state, read from memory, since its own functions take 40 µs. Empty if the generator is not MT19937."""
    generator = _find_numpy_generator()
    if generator is None:
        return b""
    state: bytes = _find_numpy_memory(generator).raw
    return state


@lru_cache(maxsize=1)
def _find_numpy_memory(generator: Any) -> Any:
    """The memory with the state of NumPy's generator, which the cache keeps alive."""
    return _Memory.from_address(generator.ctypes.state_address)


def _set_numpy(state: bytes) -> None:
    ctypes.memmove(cast(Any, _find_numpy_generator()).ctypes.state_address, state, _BYTES)


def _find_numpy_generator() -> Any:
    numpy = sys.modules.get("numpy.random")
    if numpy is None:
        return None
    generator = numpy.get_bit_generator()
    return generator if type(generator).__name__ == "MT19937" else None
