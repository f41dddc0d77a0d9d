"""A plugin of small nodes, a command and an observer, for the tests of the command line. Imports no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from guidegraph import Denoiser, Image, Tensor, hookimpl, node

if TYPE_CHECKING:
    import typer


@node("toy.picture")
def picture(*, seed: int = 0, batch: Annotated[int, Ge(1)] = 1, shade: float | None = None) -> Image:
    """Plain pictures (batch, 3, 2, 2): picture i of seed s is the picture of seed s + i.

    shade: one value for all of them.
    """
    import torch

    shades = torch.arange(seed, seed + batch) * 37 % 256 / 127.5 - 1
    if shade is not None:
        shades = torch.full_like(shades, shade)
    return shades.reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)


@node("toy.broken")
def broken(image: Image) -> Image:
    """A picture of NaN."""
    return image * float("nan")


@node("toy.tensor")
def tensor(*, values: list[float]) -> Tensor:
    """A tensor of these values."""
    import torch

    return torch.tensor(values)


@node("toy.number")
def number(*, value: float = 1.0) -> float:
    """A number."""
    return value


@node("toy.add")
def add(a: float, b: float = 1.0) -> float:
    """a + b."""
    return a + b


@node("toy.divide")
def divide(a: float, b: float) -> float:
    """a / b."""
    return a / b


@node("toy.table")
def table(*, prompt: str = "", sizes: list[int] | None = None) -> dict[str, Any]:
    """The settings as a dictionary."""
    return {"prompt": prompt, "sizes": sizes}


@node("toy.read")
def read(*, path: Path) -> str:
    """The text of a file."""
    return path.read_text()


@node("toy.sleep")
def sleep(x: float, *, seconds: float = 0.02) -> float:
    """x + 1, after a while."""
    time.sleep(seconds)
    return x + 1


@node("toy.model")
def model() -> Denoiser:
    """A model, which cannot be written as data."""
    return lambda x, t, condition: x  # type: ignore[return-value]


@node("toy.save", pure=False, io=True)
def save(model: Denoiser, *, path: Path) -> None:
    """Save a model."""
    path.write_text("model")


@hookimpl
def guidegraph_nodes() -> list[Callable[..., Any]]:
    return [picture, broken, tensor, number, add, divide, table, read, sleep, model, save]


@hookimpl
def guidegraph_commands(app: typer.Typer) -> None:
    @app.command()
    def hello(name: str = "you") -> None:
        """Greet somebody."""
        import typer

        typer.echo(f"hello {name}")


@hookimpl
def guidegraph_observer(run: Any) -> Callable[[Any], None] | None:
    path = os.environ.get("TOY_OBSERVER")
    if not path:
        return None
    if path == "none":
        raise RuntimeError("the toy hook")
    if path == "fail":

        def fail(event: Any) -> None:
            raise RuntimeError("the toy observer")

        return fail

    def observe(event: Any) -> None:
        with open(path, "a") as file:
            file.write(f"{run.graph.name} {type(event).__name__}\n")

    return observe
