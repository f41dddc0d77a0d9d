"""Damages a file in many ways and loads each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from guidegraph.nodes.checkpoints.read_tensors import read_tensors


def load_mutants(path: Path, replacements: Sequence[int], count: int = 300) -> list[str]:
    """Load copies of a file with some bytes replaced and some cut short; the messages of those that are refused.

    Raises anything but ``ValueError``, and ``AssertionError`` if a copy loads with more values than it has bytes.
    """
    content = path.read_bytes()
    mutant_path = path.with_stem("mutant")
    generator = random.Random(5)
    messages = []
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(generator.choice([1, 1, 3])):
            mutant[generator.randrange(len(mutant))] = generator.choice(replacements)
        if generator.random() < 0.2:
            del mutant[generator.randrange(len(mutant)) :]
        mutant_path.write_bytes(mutant)
        try:
            values = [tensor.detach().clone() for tensor in read_tensors(mutant_path).values()]
        except ValueError as error:
            messages.append(str(error))
            continue
        if sum(value.numel() for value in values) > len(content):
            raise AssertionError(f"a file of {len(content)} bytes gave {sum(value.numel() for value in values)} values")
    return messages
