"""lora.apply in a workflow against diffusers' pipelines with the same LoRA file, which they run through peft."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.checkpoints.checkpoint import load_checkpoint
from guidegraph.nodes.checkpoints.lora_layers import read_lora
from guidegraph.nodes.conditioning.text_prompt import encode_text
from guidegraph.nodes.sampling.denoiser import predict
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph.nodes.training.lora import apply_lora, new_lora, save_lora
from guidegraph.nodes.types import Condition
from guidegraph_families.diffusers.unet import to_canonical, unet_layout
from plugins.families.tests import difference_bounds
from plugins.families.tests.diffusers import pipelines
from plugins.families.tests.diffusers.loras import CONVOLUTIONS, LINEAR, NETWORKS, TEXT, Lora
from tests.paths import ROOT
from tests.slow_cases import mark_slow

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

WORKFLOW = ROOT / "workflows" / "checkpoints" / "text_to_image.yaml"
PROMPT, NEGATIVE, SEED, SHAPE, STEPS = "a tiger on grass", "b", 5, [4, 16, 16], 10
FAMILIES = ["sd1", "sdxl"]
UNET = (*LINEAR[:-1], "time_embedding.linear_1", *CONVOLUTIONS)
"""Without SDXL's added embedding, which diffusers drops from kohya files under its own names."""

RANKS = {False: {"attn2.to_q": 2, "conv1": 3}, True: {"fc1": 5, "v_proj": 2}}
ALPHAS = {False: {"attn2.to_q": 1, "attn1.to_out.0": 3, "conv_shortcut": 1.5}, True: {"q_proj": 6}}
"""Of a U-Net's layers and of a text encoder's, where they are not 4 and 2."""


class SavedPipeline:
    """A pipeline of diffusers without a LoRA, its folder and its single file as we load them, and LoRA files for it."""

    def __init__(self, family: str, root: Path) -> None:
        self.family, self.root = family, root
        self.pipe = pipelines.pipeline(family, root)
        self.pipe.save_pretrained(root / "folder")
        self.file = pipelines.single_file(self.pipe, family, root / "model.safetensors")
        self.loaded = (load_checkpoint(path=root / "folder"), load_checkpoint(path=self.file, tokenizer=root / "eos"))
        self._theirs: dict[str, Any] = {}
        self.networks = tuple(name for name in NETWORKS if getattr(self.pipe, name, None) is not None)

    def lora(self, layout: str) -> Path:
        path = self.root / f"{layout}.safetensors"
        if not path.exists():
            LAYOUTS[layout](self, path)
        return path

    def theirs(self, layout: str) -> Any:
        """A pipeline of diffusers that has loaded the file; the same one for every test of a layout."""
        if layout not in self._theirs:
            pipe = pipelines.pipeline(self.family, self.root)
            pipe.set_progress_bar_config(disable=True)
            pipe.load_lora_weights(str(self.lora(layout)))
            self._theirs[layout] = pipe
        pipe = self._theirs[layout]
        pipe.set_adapters(["default_0"], adapter_weights=[1.0])
        return pipe


def with_peft(tiny_pipeline: SavedPipeline, *, varied: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """peft's tensors and settings of random adapters, by network; ranks and alphas differ between layers if varied."""
    torch.manual_seed(7)
    pipe = pipelines.pipeline(tiny_pipeline.family, tiny_pipeline.root)
    tensors, settings = {}, {}
    for network in tiny_pipeline.networks:
        module = getattr(pipe, network)
        text = network.startswith("text")
        config = peft.LoraConfig(
            r=4,
            lora_alpha=2,
            target_modules=list(TEXT if text else UNET),
            rank_pattern=RANKS[text] if varied else {},
            alpha_pattern=ALPHAS[text] if varied else {},
            init_lora_weights=False,
        )
        peft.inject_adapter_in_model(config, module)
        tensors[network] = peft.get_peft_model_state_dict(module)
        adapter_settings = config.to_dict()
        settings[network] = {
            name: sorted(value) if isinstance(value, set) else value for name, value in adapter_settings.items()
        }
    return tensors, settings


def by_diffusers(tiny_pipeline: SavedPipeline, path: Path) -> None:
    """The file of diffusers' `save_lora_weights`, with peft's settings in its header."""
    tensors, settings = with_peft(tiny_pipeline)
    layers = {f"{network}_lora_layers": value for network, value in tensors.items()}
    headers = {f"{network}_lora_adapter_metadata": value for network, value in settings.items()}
    tiny_pipeline.pipe.save_lora_weights(str(path.parent), weight_name=path.name, **layers, **headers)


def kohya_by_diffusers(tiny_pipeline: SavedPipeline, path: Path, *, varied: bool = False) -> None:
    """diffusers' own translation to kohya's layout, where the alpha of each layer is its rank."""
    from diffusers.utils import convert_state_dict_to_kohya

    tensors, _ = with_peft(tiny_pipeline, varied=varied)
    old_names = {f"{network}.{_old(network, name)}": v for network, held in tensors.items() for name, v in held.items()}
    save_file({name: value.contiguous() for name, value in convert_state_dict_to_kohya(old_names).items()}, path)


def kohya(tiny_pipeline: SavedPipeline, path: Path) -> None:
    """As kohya's scripts write: SDXL under its own software's names, with ranks and alphas that differ.

    All layers of attention and of text encoders have one alpha: of others diffusers takes the commonest for these.
    """
    denoiser: Any = tiny_pipeline.loaded[0].denoiser
    layout = unet_layout(denoiser.network.shape)
    same = ("to_q", "to_k", "to_v", "to_out.0", *TEXT)
    lora = Lora(
        tiny_pipeline.pipe,
        tiny_pipeline.networks,
        sizes=lambda name, number: (2 + number % 3, 2.0 if name.endswith(same) else 1.0 + number % 5),
    )
    lora.kohya(path, unet_names=(lambda name: to_canonical(name, layout)) if tiny_pipeline.family == "sdxl" else None)


def before_peft(tiny_pipeline: SavedPipeline, path: Path) -> None:
    Lora(tiny_pipeline.pipe, tiny_pipeline.networks, sizes=lambda _, number: (2 + number % 3, 1.0)).before_peft(path)


LAYOUTS = {
    "diffusers": by_diffusers,
    "diffusers before peft": before_peft,
    "kohya by diffusers": kohya_by_diffusers,
    "kohya": kohya,
}


def _old(network: str, name: str) -> str:
    """kohya's names are those of transformers 4, which has `text_model.` before each of a text encoder's."""
    return name if network == "unet" or name.startswith("text_model.") else f"text_model.{name}"


@pytest.fixture(scope="module", params=FAMILIES)
def tiny_pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedPipeline:
    return SavedPipeline(request.param, tmp_path_factory.mktemp(request.param))


def of_both_families(*cases: tuple[str, float]) -> list[tuple[str, str, float]]:
    return [(family, *case) for family, case in product(FAMILIES, cases)]


QUICK = [("sd1", "diffusers", 0.0), *(("sd1", layout, 0.5) for layout in LAYOUTS), ("sdxl", "kohya", 0.5)]
"""Every layout, and SDXL in the one where it has names of its own."""


@pytest.mark.parametrize(
    ("tiny_pipeline", "layout", "strength"),
    mark_slow(of_both_families(("diffusers", 0.0), *product(LAYOUTS, (0.5, 1.0))), QUICK),
    indirect=["tiny_pipeline"],
)
def test_a_lora_is_that_of_diffusers_with_peft(tiny_pipeline: SavedPipeline, layout: str, strength: float) -> None:
    pipe = tiny_pipeline.theirs(layout)
    embeddings = pipe.encode_prompt(
        prompt=PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, lora_scale=strength
    )
    pipe.set_adapters(["default_0"], adapter_weights=[strength])
    torch.manual_seed(3)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([300.0])
    for plain in tiny_pipeline.loaded:
        actual = apply_lora(plain.denoiser, plain.text, path=tiny_pipeline.lora(layout), strength=strength)
        condition = encode_text(actual.text, PROMPT)  # type: ignore[arg-type]
        assert condition.tokens is not None
        difference_bounds.largest(condition.tokens, embeddings[0], 1e-5, "text embeddings")
        eps = predict(actual.denoiser, x, t, condition).value
        added = {} if condition.vector is None else _added_conditions(condition.vector)
        with torch.no_grad():
            expected = pipe.unet(x, t, encoder_hidden_states=condition.tokens, added_cond_kwargs=added)[0]
        difference_bounds.largest(eps, expected, 1e-4, "ε")
        before = predict(plain.denoiser, x, t, condition).value
        assert ((before - eps).abs().max() > 0.01) == (strength > 0)


@pytest.mark.parametrize(
    ("tiny_pipeline", "layout", "strength"),
    mark_slow(
        of_both_families(
            ("diffusers", 0.0), ("diffusers before peft", 1.0), ("kohya by diffusers", 0.5), ("kohya", 0.5)
        ),
        [("sd1", "diffusers before peft", 1.0), ("sdxl", "kohya", 0.5)],
    ),
    indirect=["tiny_pipeline"],
)
def test_ten_steps_with_a_lora(tiny_pipeline: SavedPipeline, layout: str, strength: float) -> None:
    expected: Tensor = tiny_pipeline.theirs(layout)(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        latents=gaussian(seed=SEED, shape=SHAPE),
        output_type="latent",
        cross_attention_kwargs={"scale": strength},
    ).images
    text = WORKFLOW.read_text(encoding="utf-8")
    text = text.replace("model.denoiser", "adapted.denoiser").replace("model.text", "adapted.text")
    node = (
        f"  adapted:\n    use: lora.apply\n    in: {{denoiser: model.denoiser, text: model.text}}\n"
        f'    with: {{path: "{tiny_pipeline.lora(layout)}", strength: {strength}}}\n'
    )
    path = tiny_pipeline.root / "lora.yaml"
    path.write_text(text.replace("nodes:\n", f"nodes:\n{node}", 1), encoding="utf-8")
    arguments = {"prompt": PROMPT, "negative": NEGATIVE, "steps": STEPS, "seed": SEED, "shape": SHAPE}
    actual: Tensor = load_workflow(path).run(checkpoint=tiny_pipeline.root / "folder", **arguments)["latent"]
    difference_bounds.relative(actual, expected, 1e-3, "latents after all steps")


def _added_conditions(vector: Tensor) -> dict[str, Tensor]:
    """SDXL's pooled text and the sizes of a picture of 32 pixels, as diffusers' U-Net takes them."""
    return {"text_embeds": vector, "time_ids": torch.tensor([[32, 32, 0, 0, 32, 32]])}


def test_each_layer_has_its_own_alpha_and_rank(tiny_pipeline: SavedPipeline) -> None:
    """Where all alphas are the ranks the scale is 1 everywhere, in a file that diffusers itself does not read so."""
    path = tiny_pipeline.root / "varied.safetensors"
    kohya_by_diffusers(tiny_pipeline, path, varied=True)
    factors = read_lora(path)
    assert {len(pair.down) for pair in factors.values()} == {2, 3, 4, 5}
    assert {pair.scale for pair in factors.values()} == {1.0}


def test_diffusers_loads_what_is_trained_here(tmp_path: Path) -> None:
    tiny_pipeline = SavedPipeline("sd1", tmp_path)
    torch.manual_seed(0)
    targets = ["*.attn1.*", "*.attn2.*", "*_layers.*", "*.proj_in"]
    lora: Any = new_lora(tiny_pipeline.loaded[0].denoiser, rank=3, alpha=6.0, targets=targets)
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if name.endswith(("lora_A", "lora_B")):
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    x, t, tokens = torch.randn(1, 4, 16, 16), torch.tensor([300.0]), torch.randn(1, 77, 64)
    ours = predict(lora, x, t, Condition(tokens=tokens)).value
    plain = predict(tiny_pipeline.loaded[0].denoiser, x, t, Condition(tokens=tokens)).value
    assert not torch.allclose(ours, plain, atol=1e-2)
    for layout in ("kohya", "peft"):
        pipe = pipelines.pipeline("sd1", tmp_path)
        path = save_lora(lora, path=tmp_path / f"{layout}.safetensors", layout=layout)  # type: ignore[arg-type]
        pipe.load_lora_weights(path)
        with torch.no_grad():
            theirs = pipe.unet(x, t, encoder_hidden_states=tokens).sample
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
