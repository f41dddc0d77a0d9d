"""LoRA: low-rank updates of a model's weights (Hu et al. 2022), trained here or read from files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from annotated_types import Ge, Gt, MinLen

from guidegraph.graph.late import torch
from guidegraph.graph.node import node
from guidegraph.graph.types import Written
from guidegraph.nodes.types import Denoiser, TextEmbedder
from guidegraph_runtime.lora.pairs import LARGEST_SCALE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from guidegraph.nodes.checkpoints.filling import LayerRows
    from guidegraph.nodes.checkpoints.lora_layers import Factors
Rank = Annotated[int, Ge(1)]


Text = TypeVar("Text", bound=TextEmbedder | None)


class AdaptedModels(NamedTuple, Generic[Text]):
    """The denoiser and the text encoder with a LoRA in their weights; the text encoder is None if it is not wired."""

    denoiser: Denoiser
    text: Text


@node("lora.apply", host=True)
def apply_lora(
    denoiser: Denoiser,
    text: Text = None,  # type: ignore[assignment]
    *,
    path: Path,
    strength: float = 1.0,
) -> AdaptedModels[Text]:
    """Copies of a denoiser and a text encoder with a LoRA: W + strength · α/r · BA.

    denoiser: of `checkpoint.load`, of `model.load` for a LoRA trained here, or a plugin's torch module. text: of
    `checkpoint.load`; optional for a LoRA of the denoiser alone. path: a file in peft's, diffusers' or kohya's layout
    (safetensors or `.pt`), or a folder written by peft; for linear layers and convolutions. The copies share every
    tensor that the LoRA does not change, and the inputs do not change. To add LoRAs, chain these nodes.
    Raises an error that names the file if any of its layers is missing in the model or has another shape: the LoRA
    belongs to another model, and nothing is applied.
    """
    from guidegraph.nodes.checkpoints.filling import LayerRows
    from guidegraph.nodes.checkpoints.lora_layers import denoiser_rows, read_lora, text_layers
    from guidegraph.nodes.models.networks.low_rank import merge_low_rank
    from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
    from guidegraph.nodes.models.released.prompt_embedder import TowerText

    network = _find_network(denoiser, "lora.apply")
    if not abs(strength) <= LARGEST_SCALE:
        raise ValueError(f"the strength of a LoRA is a finite number of float32; found {strength}")
    factors = read_lora(path)
    module: Any = merge_low_rank(denoiser)  # type: ignore[type-var]
    denoiser_names = denoiser_rows(network, "" if network is denoiser else "network.")
    text_names = text_layers(text.models) if isinstance(text, TowerText) else {}
    unknown = [name for name in factors if name not in denoiser_names and name not in text_names]
    if unknown:
        raise ValueError(_mismatch_message(path, unknown, len(factors), bool(text_names)))
    changes = [(denoiser_names[name], pair) for name, pair in factors.items() if name in denoiser_names]
    new_denoiser = copy_sharing_tensors(module, _merge_weights(module, changes, strength, path))
    new_text: Any = text
    text_changes = [(LayerRows(text_names[name]), factors[name]) for name in factors if name not in denoiser_names]
    if isinstance(text, TowerText) and text_changes:
        new_text = copy_sharing_tensors(text, _merge_weights(text, text_changes, strength, path))
    return AdaptedModels(new_denoiser, new_text)


@node("lora.new")
def new_lora(
    denoiser: Denoiser,
    *,
    rank: Rank = 8,
    alpha: Annotated[float, Gt(0)] | None = None,
    targets: Literal["attention", "all"] | Annotated[list[str], MinLen(1)] = "attention",
    seed: Annotated[int, Ge(0)] = 0,
) -> Denoiser:
    """A denoiser with a trainable LoRA: h = W₀ x + α/r · BA x in some layers (Hu et al. 2022, eq. 3).

    denoiser: of `model.load` or `checkpoint.load`, or a plugin's torch module. B is zero, so that
    predictions are unchanged at first; training changes A and B alone, and all other tensors are shared.
    rank: r. alpha: α, by default r. targets: the layers: `attention`, `all` linear layers and convolutions, or
    patterns of their names such as `*.query`. seed: of A.
    Raises an error for a pattern that matches no layer, and for a denoiser that already has a trainable LoRA.
    """
    from guidegraph.nodes.models.networks.hooks import AttentionLayer
    from guidegraph.nodes.models.networks.low_rank import add_low_rank, low_rank_layers, matching_layers

    network = _find_network(denoiser, "lora.new")
    if any(low_rank_layers(network)):
        raise ValueError("this denoiser has a LoRA to train already: wire the one without, or lora.merge's")
    if targets == "attention":
        modules = network.named_modules()
        owners = [f"{name}." for name, module in modules if isinstance(module, AttentionLayer)]
        names = [name for name in matching_layers(network, ["*"]) if name.startswith(tuple(owners))]
    else:
        names = matching_layers(network, ["*"] if targets == "all" else targets)
    if not names:
        raise ValueError("this denoiser has no attention of linear layers: set 'targets' to all, or to names of layers")
    factor = float(rank if alpha is None else alpha)
    prefix = "" if network is denoiser else "network."
    return add_low_rank(denoiser, [f"{prefix}{name}" for name in names], rank=rank, alpha=factor, seed=seed)  # type: ignore[type-var]


@node("lora.merge")
def merge_lora(denoiser: Denoiser) -> Denoiser:
    """Merge the LoRA of `lora.new` into the weights, W₀ + α/r · BA, for full speed and for saving the model."""
    from guidegraph.nodes.models.networks.low_rank import merge_low_rank

    _find_network(denoiser, "lora.merge")
    return merge_low_rank(denoiser)  # type: ignore[type-var]


@node("lora.save", pure=False, host=True)
def save_lora(
    denoiser: Denoiser,
    *,
    path: Annotated[Path, Written()],
    layout: Literal["kohya", "peft"] = "kohya",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
) -> str:
    """Write the LoRA of a denoiser of `lora.new` as a safetensors file that `lora.apply` reads, and return its path.

    layout: of names in the file: `peft`, as diffusers writes and reads it, with α and r in the header, or `kohya`, with
    α in the file, which diffusers reads for a U-Net and for the blocks of Flux.1. In kohya's layout the layers of
    transformers have the names of their single files. dtype: of A and B.
    Raises an error for a denoiser without a trainable LoRA, and for a path that does not end in `.safetensors`.
    """
    from safetensors.torch import save_file

    from guidegraph.nodes.checkpoints.lora_layers import lora_tensors, peft_settings
    from guidegraph.nodes.models.networks.low_rank import low_rank_layers
    from guidegraph.nodes.models.store import write_atomic

    network = _find_network(denoiser, "lora.save")
    if not any(low_rank_layers(network)):
        raise ValueError("this denoiser has no LoRA that was trained: wire lora.new's, or that of the training loop")
    if path.suffix != ".safetensors":
        raise ValueError(f"'{path}' does not end in .safetensors, and a LoRA is written as such a file")
    tensors = lora_tensors(network, layout, getattr(torch, dtype))
    header = peft_settings(network) if layout == "peft" else {"format": "pt"}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda file: save_file(tensors, file, metadata=header))
    return str(path)


def _find_network(denoiser: Denoiser, node_id: str) -> torch.nn.Module:
    """The module whose layers have names in LoRA files: a denoiser's `network`, or the denoiser.

    Raises ``ValueError`` for a denoiser without torch layers, and for one around another one.
    """
    network = getattr(denoiser, "network", denoiser)
    if (
        not isinstance(denoiser, torch.nn.Module)
        or not isinstance(network, torch.nn.Module)
        or hasattr(denoiser, "denoiser")
    ):
        raise ValueError(
            f"{node_id} takes a denoiser with torch layers of its own, such as one of checkpoint.load or model.load; "
            f"found {type(denoiser).__name__}: wire the denoiser before it is guided or compiled"
        )
    return network


def _merge_weights(
    module: torch.nn.Module, changes: Sequence[tuple[LayerRows, Factors]], strength: float, path: Path
) -> dict[str, Tensor]:
    """The merged weights of the changed layers, by name. Raises ``ValueError`` for factors of another shape."""
    weights = dict(module.named_parameters())
    by_weight: dict[str, list[tuple[LayerRows, Factors]]] = {}
    for rows, pair in changes:
        by_weight.setdefault(rows.layer, []).append((rows, pair))
    merged: dict[str, Tensor] = {}
    for name, pairs in by_weight.items():
        weight = weights[name]
        changed = weight.float() if weight.dtype.itemsize < 4 else weight.clone()
        for rows, pair in pairs:
            part = rows.select(changed)
            difference = pair.difference(part)
            if difference is None:
                raise ValueError(
                    f"the LoRA '{path}' is for another model: its factors {tuple(pair.up.shape)} and "
                    f"{tuple(pair.down.shape)} do not make the weight {tuple(part.shape)} of {name}; nothing was "
                    "applied"
                )
            part += strength * rows.arrange(difference)
        merged[name] = changed.to(weight.dtype)
    return merged


def _mismatch_message(path: Path, unknown: list[str], count: int, texts: bool) -> str:
    examples = ", ".join(sorted(unknown)[:3]) + (" …" if len(unknown) > 3 else "")
    if not texts and all(name.startswith(("text_encoder", "lora_te")) for name in unknown):
        return (
            f"the LoRA '{path}' changes the text encoder too ({examples}): wire the checkpoint's text to lora.apply (a "
            "single file's needs `tokenizer` of checkpoint.load)"
        )
    return (
        f"the LoRA '{path}' is for another model: {len(unknown)} of its {count} layers are not in this one "
        f"({examples}); nothing was applied"
    )
