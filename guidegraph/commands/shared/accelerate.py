"""The option ``--accelerate``, whose value may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from guidegraph.graph.run_config import ACCELERATORS

OPTION, DEFAULT = "--accelerate", "onnx"


class AcceleratedCommand(TyperCommand):
    """A command with the option ``--accelerate``, which means ``--accelerate onnx`` if no value follows.

    Where that leaves more arguments than the command has, the word behind the option was meant as its value.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        complete = insert_value(args)
        ctx.allow_extra_args = True
        super().parse_args(ctx, [*complete])
        ctx.allow_extra_args = False
        if not ctx.args:
            return []
        ctx.params.clear()
        words = [*args, "-"]
        has_word_behind = OPTION in words and not words[words.index(OPTION) + 1].startswith("-")
        return super().parse_args(ctx, [*args] if has_word_behind else complete)


def insert_value(arguments: Sequence[str]) -> list[str]:
    """The arguments with the default value after an ``--accelerate`` that no known value follows."""
    complete: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        lacks_value = argument == OPTION and following not in ACCELERATORS
        complete.append(f"{OPTION}={DEFAULT}" if lacks_value else argument)
    return complete
