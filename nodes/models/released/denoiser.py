"""A released U-Net as a `Denoiser`, and its embedding of class labels as a `LabelEmbedder`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from guidegraph.nodes.checkpoints.lora_layers import denoiser_layers
from guidegraph.nodes.models.networks.hooks import HookedModel, Hooks
from guidegraph.nodes.models.own.denoiser import check_fields, check_shape, check_sizes
from guidegraph.nodes.models.released.unet import ReleasedUNet
from guidegraph.nodes.shape_checks import has_values
from guidegraph.nodes.types import Condition, Prediction, PredictionKind


class ReleasedDenoiser(HookedModel):
    """`(x, t, condition) -> Prediction` of a ReleasedUNet, computed in its dtype and given in that of x.

    With a learned variance, the second half of the output is the raw v in [-1, 1] (Nichol & Dhariwal 2021, eq. 15).
    """

    network: ReleasedUNet

    def adaptable_weights(self) -> dict[str, str]:
        """Names of its parameters by the names of their layers in LoRA files; an exported graph keeps both."""
        return denoiser_layers(self.network)

    @property
    def kind(self) -> PredictionKind:
        """The kind of every prediction."""
        return self.network.shape.kind

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` for a shape of x that the network does not take."""
        check_shape(self.network.shape, shape)

    def forward(self, x: Tensor, t: Tensor, condition: Condition, hooks: Hooks | None = None) -> Prediction:
        """x (B, C, H, W); t (B) on the schedule's axis; every field of the condition has a leading B.

        A class-conditional network takes the vector of its own label embedder, and adds it to the embedding of t.
        An upsampler takes the low-resolution picture at the size of x as the spatial condition.
        Raises ``ValueError`` for a size of x, or a condition, that the network does not take.
        """
        shape = self.network.shape
        check_sizes(shape, x, condition.spatial)
        if shape.classes is not None and condition.vector is None:
            raise ValueError(
                f"this denoiser was trained with {shape.classes} classes and has no null class: wire the condition of "
                "label.embed, with the checkpoint's label output and a label"
            )
        check_fields(shape, condition)
        dtype = self.network.dtype

        def cast(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(dtype)

        out = self.network(
            x.to(dtype),
            t,
            vector=None if shape.vector_dim is None else cast(condition.vector),
            tokens=cast(condition.tokens),
            mask=condition.mask,
            spatial=cast(condition.spatial),
            hooks=hooks or self.hooks,
        ).to(x.dtype)
        if shape.learned_variance:
            return Prediction(out[:, : shape.in_channels], shape.kind, out[:, shape.in_channels :])
        return Prediction(out, shape.kind)


class ReleasedLabels(nn.Module):
    """A `LabelEmbedder` of a network trained with K classes and no null class: one vector for each label.

    The network adds the vector to its embedding of t.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(classes, width)

    @property
    def classes(self) -> int:
        return self.label_emb.num_embeddings

    def forward(self, labels: Tensor) -> Condition:
        """The condition of labels (B), int64 in 0 … classes − 1. Raises ``ValueError`` for the null class."""
        if has_values(labels) and labels.numel() and int(labels.max()) >= self.classes:
            raise ValueError(
                f"this model knows {self.classes} classes and was trained without a null class: give labels of "
                f"0 … {self.classes - 1}"
            )
        return Condition(vector=self.label_emb(labels.to(self.label_emb.weight.device)))
