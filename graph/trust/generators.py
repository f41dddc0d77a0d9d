"""Whether a call has seeded one of the process's random generators, or has only drawn from it.

A node may draw from the generators that a process has: that is what randomness without a seed is. One that *seeds* them
decides what every later draw gives, in other nodes and in other runs. torch's generator of the CPU, Python's and
NumPy's are all MT19937 (Matsumoto and Nishimura, 1998): a block of 624 words and a position in it. To draw moves the
position, and makes the next block from the last; a seed makes a block that has nothing to do with it. So a state after
a call is told apart by making blocks from the one before.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, cast

WORDS = 624
BLOCKS = 4096
"""So many blocks, or 2.6 million numbers, a call may draw from a generator without being taken to have seeded it."""
NEAR = 64
"""So many blocks, or 40,000 numbers, after the seed that torch's generator has, a call that sets it again is seen."""
_BITS = 32 * WORDS
_TORCH_WORDS = struct.Struct(f"<Qii Q{WORDS}Q")
"""The beginning of torch's state: its seed, the words that are left, whether it is seeded, the next one, the words."""
_BYTES = 4 * WORDS + 4


class Twister(NamedTuple):
    """A state of MT19937: its block of 624 words of 32 bits, and how many of them were given out."""

    words: tuple[int, ...]
    position: int


class Generators(NamedTuple):
    """The states of the process's generators: torch's of the CPU and of each CUDA device in use, Python's, NumPy's."""

    torch: bytes
    cuda: tuple[Any, ...]
    python: tuple[bytes | tuple[int, ...], Any]
    numpy: bytes


def read_generators() -> Generators:
    """The generators as they are. torch is imported already."""
    import torch

    return Generators(
        torch.default_generator.get_state().numpy().tobytes(), _cuda_states(), _python_state(), _numpy_state()
    )


def put_back_seeded(before: Generators) -> list[str]:
    """Put back each generator that was seeded since ``before``, and give their names; what was drawn stays drawn."""
    import torch

    seeded: list[str] = []
    after = read_generators()
    if after.torch != before.torch and _torch_seeded(before.torch, after.torch):
        torch.default_generator.set_state(torch.frombuffer(bytearray(before.torch), dtype=torch.uint8))
        seeded.append("torch's random generator")
    for device, (old, new) in enumerate(zip(before.cuda, after.cuda, strict=False)):
        if _philox_seeded(old, new):
            torch.cuda.default_generators[device].set_state(old)
            seeded.append(f"torch's random generator of cuda:{device}")
    if after.python != before.python and is_seeded(_of_python(before.python), _of_python(after.python)):
        twister = _of_python(before.python)
        random.setstate((3, (*twister.words, twister.position), before.python[1]))
        seeded.append("Python's random generator")
    if after.numpy != before.numpy and before.numpy and is_seeded(_of_numpy(before.numpy), _of_numpy(after.numpy)):
        _set_numpy(before.numpy)
        seeded.append("NumPy's random generator")
    return seeded


def is_seeded(before: Twister, after: Twister) -> bool:
    """Whether no number of draws leads from one state to the other."""
    if after.words == before.words:
        return after.position < before.position
    target = next(_blocks(after.words))
    blocks = _blocks(before.words)
    next(blocks)
    return all(next(blocks) != target for _ in range(BLOCKS))


def _blocks(words: tuple[int, ...]) -> Iterator[int]:
    """What the block of these words gives out, and each one after it, as numbers of 624 · 32 bits."""
    generator = random.Random()
    generator.setstate((3, (*words, 0), None))
    while True:
        yield generator.getrandbits(_BITS)


def _python_state() -> tuple[bytes | tuple[int, ...], Any]:
    """Position and words, and the Gaussian number that is kept; read in place, for getstate() takes 20 µs."""
    generator: Any = random.random.__self__  # type: ignore[attr-defined]
    if not _is_laid_out():
        _, numbers, gauss = generator.getstate()
        return numbers, gauss
    return ctypes.string_at(id(generator) + object.__basicsize__, _BYTES), generator.gauss_next


@cache
def _is_laid_out() -> bool:
    """Whether Python's generator is, in memory, an object's header, an int and 624 words: so it is in CPython."""
    if sys.implementation.name != "cpython" or random.Random.__basicsize__ < object.__basicsize__ + _BYTES:
        return False
    generator = random.Random(5489)
    numbers = generator.getstate()[1]
    position, *words = struct.unpack(f"=i{WORDS}I", ctypes.string_at(id(generator) + object.__basicsize__, _BYTES))
    return bool((*words, position) == numbers)


def _of_python(state: tuple[bytes | tuple[int, ...], Any]) -> Twister:
    numbers = state[0]
    if isinstance(numbers, bytes):
        position, *words = struct.unpack(f"=i{WORDS}I", numbers)
        return Twister(tuple(words), position)
    return Twister(numbers[:WORDS], numbers[WORDS])


def _of_numpy(state: bytes) -> Twister:
    *words, position = struct.unpack(f"={WORDS}Ii", state)
    return Twister(tuple(words), position)


def _torch_seeded(before: bytes, after: bytes) -> bool:
    """torch's state holds the seed; with the same seed again, the state is near the seed's first block."""
    import torch

    old, new = _of_torch(before), _of_torch(after)
    if old.words == new.words:
        return new.position < old.position
    seed = _torch_seed(before)
    if seed != _torch_seed(after):
        return True
    first = _of_torch(torch.Generator().manual_seed(seed).get_state().numpy().tobytes())
    states = {next(_blocks(twister.words)): twister for twister in (old, new)}
    met = (states[block] for block in islice(_blocks(first.words), NEAR) if block in states)
    return next(met, old) is new


def _torch_seed(state: bytes) -> int:
    return int(_TORCH_WORDS.unpack_from(state)[0])


def _of_torch(state: bytes) -> Twister:
    _, left, _, _, *words = _TORCH_WORDS.unpack_from(state)
    return Twister(tuple(words), WORDS + 1 - left)  # 1 is left where there is nothing: the next block is due


def _philox_seeded(before: Any, after: Any) -> bool:
    """CUDA's state is a seed and an offset, which grows with what is drawn."""
    (old_seed, old_offset), (seed, offset) = (struct.unpack("<QQ", s.numpy().tobytes()) for s in (before, after))
    return bool(seed != old_seed or offset < old_offset)


def _cuda_states() -> tuple[Any, ...]:
    import torch

    if not torch.cuda.is_initialized() or torch.cuda.is_current_stream_capturing():
        return ()
    return tuple(generator.get_state() for generator in torch.cuda.default_generators)


def _numpy_state() -> bytes:
    """NumPy's state, read in place: its own functions take 40 µs. Empty where it is another generator than MT19937."""
    generator = _numpy_generator()
    return b"" if generator is None else ctypes.string_at(generator.ctypes.state_address, _BYTES)


def _set_numpy(state: bytes) -> None:
    ctypes.memmove(cast(Any, _numpy_generator()).ctypes.state_address, state, _BYTES)


def _numpy_generator() -> Any:
    numpy = sys.modules.get("numpy.random")
    if numpy is None:
        return None
    generator = numpy.get_bit_generator()
    return generator if type(generator).__name__ == "MT19937" else None
