"""The ports that check the options of a training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Len, Lt

from guidegraph.graph.port import Port
from guidegraph.graph.types import Written, to_port_type

OWN_OPTIONS = {
    "adamw": ("betas", "eps"),
    "adam": ("betas", "eps"),
    "sgd": ("momentum",),
    "muon": ("betas", "eps", "momentum"),
}


def make_port(name: str, annotation: Any, default: Any = None) -> Port:
    return Port(name, annotation, to_port_type(annotation), default, setting=True)


CHECKPOINT_EVERY = 500
"""Steps between two checkpoints, unless a loop says otherwise."""
CHECKPOINT = make_port("path", Annotated[Path, Written()])
PREVIEW_EVERY = make_port("every", Annotated[int, Ge(0)])
"""Steps between two previews; 0 for none."""


def optimiser_ports() -> dict[str, Port]:
    """The ports of the options of a ``train`` entry, for all optimisers."""
    positive: Any = Annotated[float, Gt(0)]
    fraction: Any = Annotated[float, Ge(0), Lt(1)]
    return {
        "optimizer": make_port("optimizer", Literal["adamw", "adam", "sgd", "muon"], "adamw"),
        "lr": make_port("lr", positive, 1e-4),
        "ema": make_port("ema", fraction | None),
        "start": make_port("start", Annotated[int, Ge(0)], 0),
        "betas": make_port("betas", Annotated[list[fraction], Len(2, 2)]),
        "eps": make_port("eps", Annotated[float, Ge(0)]),
        "weight_decay": make_port("weight_decay", Annotated[float, Ge(0)]),
        "momentum": make_port("momentum", fraction),
        "warmup": make_port("warmup", Annotated[int, Ge(0)]),
        "schedule": make_port("schedule", Literal["constant", "cosine", "linear"]),
        "clip": make_port("clip", positive),
        "ema_warmup": make_port("ema_warmup", bool, False),
    }


def linkable_options(optimizer: str) -> dict[str, Port]:
    """The ports of those options of a ``train`` entry that may be linked to parameters: the numbers."""
    numbers = (
        "lr",
        "ema",
        "start",
        "warmup",
        "clip",
        "weight_decay",
        *(n for n in OWN_OPTIONS[optimizer] if n != "betas"),
    )
    ports = optimiser_ports()
    return {name: ports[name] for name in numbers}
