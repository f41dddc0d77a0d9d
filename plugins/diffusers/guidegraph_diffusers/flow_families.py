"""A family of checkpoints from the classes of diffusers: a pipeline whose transformer predicts a flow.

A plugin describes one by a `FlowFamily`, and returns its `family()` from the hook `guidegraph_families`. The folder of
a pipeline is recognised, and the folder of its transformer alone. Neither torch nor diffusers is imported before a
folder is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph import Condition, Family, Tensor
from guidegraph_diffusers.folders import import_diffusers, load_model, read_json

if TYPE_CHECKING:
    from guidegraph_diffusers.hooked_flows import HookedFlow

SETTINGS = ("prediction",)
"""The settings of `checkpoint.load` that such a family takes."""


@dataclass(frozen=True)
class FlowFamily:
    """The classes of a family in diffusers, and how its parts are called.

    name: in error messages and for `guidegraph plugins`.
    pipeline, network, autoencoder: classes of diffusers.
    predict: (network, x (B, C, H, W), t (B) = 1000 σ, condition) to u = ε − x0 (B, C, H, W) in the network's dtype.
    encode: (pipeline, B texts, arguments for its `encode_prompt`) to a condition.
    wrap_autoencoder: the loaded network as an `Autoencoder`.
    text_classes: names of the text encoder's and the tokenizer's classes in transformers.
    patch: latent pixels along each side of a token; 0 stands for the configuration's `patch_size`.
    blocks: the name of the transformer's list of blocks, each of which has sites for hooks.
    prepare: changes the loaded transformer, for example to one that can be exported.
    refused: fields of the transformer's configuration that are set for other tasks, and what a user is told of them.
    """

    name: str
    pipeline: str
    network: str
    autoencoder: str
    predict: Callable[[Any, Tensor, Tensor, Condition], Tensor]
    encode: Callable[[Any, list[str], dict[str, Any]], Condition]
    wrap_autoencoder: Callable[[Any], Any]
    text_classes: Collection[str]
    patch: int = 0
    blocks: str = "transformer_blocks"
    prepare: Callable[[Any], object] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    def family(self) -> Family:
        """The family for the hook `guidegraph_families`."""
        return Family(self.name, self.recognise, self.open)

    def recognise(self, headers: Mapping[str, Any], config: Mapping[str, Any] | None) -> bool:
        """Whether a folder is of the pipeline, or of its transformer."""
        return config is not None and config.get("_class_name") in (self.pipeline, self.network)

    def open(self, path: Path, options: Any) -> dict[str, Any]:
        """The denoiser and the schedule of a folder, and the autoencoder and the text embedder that it holds.

        Raises ``ValueError`` for weights that are missing or do not fit, and for settings that it does not use.
        """
        from guidegraph_diffusers.hooked_flows import make_schedule
        from guidegraph_diffusers.prompts import PipelineText

        options.refuse_unused(str(path), SETTINGS)
        if options.prediction not in ("auto", "flow"):
            raise ValueError(f"'{path}' is {self.name}, which predicts a flow: leave prediction out")
        if not (path / "model_index.json").is_file():
            return {"denoiser": self.load_denoiser(path), "schedule": make_schedule()}
        scheduler = path / "scheduler" / "scheduler_config.json"
        config = read_json(scheduler) if scheduler.is_file() else {}
        is_fixed = not config.get("use_dynamic_shifting")  # otherwise by the size of the picture: schedule.flow_shift
        shift = float(config.get("flow_shift") or config.get("shift") or 1.0) if is_fixed else 1.0
        parts = {"denoiser": self.load_denoiser(path / "transformer"), "schedule": make_schedule(shift)}
        if (path / "vae").is_dir():
            network = load_model(getattr(import_diffusers(), self.autoencoder), path / "vae", None)
            parts["autoencoder"] = self.wrap_autoencoder(network).eval()
        if (path / "text_encoder").is_dir():
            index = read_json(path / "model_index.json")
            parts["text"] = PipelineText.load(
                path, index, self.pipeline, self.encode, None, None, None, self.text_classes
            )
        return parts

    def load_denoiser(self, folder: Path) -> HookedFlow:
        """The transformer, frozen, as a denoiser with hooks at its blocks.

        Raises ``ValueError`` for a configuration with a field in `refused`.
        """
        from guidegraph_diffusers.hooked_flows import HookedFlow

        config = read_json(folder / "config.json")
        for name, reason in self.refused.items():
            if config.get(name):
                raise ValueError(f"'{folder}' has {name}: {reason}")
        network = load_model(getattr(import_diffusers(), self.network), folder, None)
        if self.prepare is not None:
            self.prepare(network)
        patch = self.patch or int(network.config.patch_size)
        return HookedFlow(network, self.blocks, self.predict, patch).eval()


def take_tokens(condition: Condition, width: int, name: str) -> Tensor:
    """The tokens (B, M, width) of a condition. Raises ``ValueError`` for none, and for another width."""
    tokens = condition.tokens
    if tokens is None or tokens.shape[-1] != width:
        actual = "none" if tokens is None else f"width {tokens.shape[-1]}"
        raise ValueError(f"{name} takes tokens of width {width}, and got {actual}: see text.encode")
    return tokens
