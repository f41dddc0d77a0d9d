"""Hooks of denoisers: sites, rules, captured outputs, unchanged originals, and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import AttentionCall, HookedDenoiser, NodeError, Rule, Site, WorkflowError, load_workflow, select_sites
from guidegraph.graph.frozen_models import copy_frozen
from guidegraph.graph.memory.weights import list_slots
from guidegraph.nodes.models.networks.attention import attention
from guidegraph.nodes.models.networks.hooks import HookedModel, Hooks
from guidegraph.nodes.models.networks.shared_tensors import copy_sharing_tensors
from guidegraph.nodes.models.own.layers import SpatialTransformer
from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser
from guidegraph.nodes.models.store import describe_part, load_part
from guidegraph.nodes.sampling.denoiser import features, guide_denoiser, list_sites
from guidegraph.nodes.types import Condition, Prediction
from guidegraph_families.networks.config import UNetShape
from guidegraph_families.networks.denoiser import ReleasedDenoiser
from guidegraph_families.networks.layers import AttentionBlock
from guidegraph_families.networks.unet import ReleasedUNet
from tests.graph.export.exporting import WORKFLOWS, changed, difference, made
from tests.nodes.models.transformers.networks import captioned, mmdit, z_image

BATCH, SIDE = 2, 8


def own() -> UNetDenoiser:
    config = UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(1,), heads=2, context_dim=12)
    return UNetDenoiser(UNet(config))


def with_tokens() -> ReleasedDenoiser:
    shape = UNetShape(4, 4, 32, widths=(32, 64), blocks=1, depths=(0, 2), heads=(2, 2), middle_depth=1, context_dim=12)
    return ReleasedDenoiser(ReleasedUNet(shape))


PIXELS = UNetShape(4, 4, 32, widths=(32, 64), blocks=1, depths=(0, 1), heads=(2, 2), middle_depth=1)


def of_pixels() -> ReleasedDenoiser:
    return ReleasedDenoiser(ReleasedUNet(PIXELS))


MODELS = {"own": own, "with_tokens": with_tokens, "of_pixels": of_pixels}


@pytest.fixture(params=MODELS)
def denoiser(request: pytest.FixtureRequest) -> Any:
    return random(MODELS[request.param]())


def random(module: torch.nn.Module) -> Any:
    """Freeze a module, with random weights that are not zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape) + (parameter.ndim == 1))
    return module.eval().requires_grad_(False)


def inputs(denoiser: HookedModel) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, 4, SIDE, SIDE, generator=generator)
    t = torch.tensor([3.0, 500.0])
    if not any(site.kind == "cross" for site in denoiser.sites()):
        return x, t, Condition()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return x, t, Condition(tokens=torch.randn(BATCH, 5, 12, generator=generator), mask=mask)


def passive(site: Site) -> Rule:
    """A rule that computes the same as the network."""
    if site.kind == "skip":
        return lambda h, skipped: (h, skipped)
    if site.kind in ("input", "feature"):
        return lambda h: h
    if site.kind == "deep":
        return lambda compute: compute()
    return AttentionCall.attend


def changing(site: Site) -> Rule:
    if site.kind == "skip":
        return lambda h, skipped: (1.5 * h, 0.5 * skipped)
    if site.kind in ("input", "feature"):
        return lambda h: h.abs()
    if site.kind == "deep":
        return lambda compute: compute().abs()
    return lambda call: 1.5 * call.attend()


def test_sites_are_listed_in_order_of_computation() -> None:
    assert [site.name for site in own().sites()] == [
        *("feature.down.0", "feature.down.1", "feature.down.2"),
        *("input.down.0", "self.down.0", "cross.down.0", "feature.down.3"),
        *("input.middle.0", "self.middle.0", "cross.middle.0", "feature.middle.0"),
        *("deep.up.0", "skip.up.0", "input.up.0", "self.up.0", "cross.up.0", "feature.up.0"),
        *("deep.up.1", "skip.up.1", "input.up.1", "self.up.1", "cross.up.1", "feature.up.1"),
        *("deep.up.2", "skip.up.2", "feature.up.2", "deep.up.3", "skip.up.3", "feature.up.3"),
    ]
    assert [site.name for site in select_sites(with_tokens(), ["self", "cross.middle"])] == [
        *("self.down.0", "self.down.1", "self.middle.0", "cross.middle.0"),
        *("self.up.0", "self.up.1", "self.up.2", "self.up.3"),
    ]
    assert {site.kind for site in of_pixels().sites()} == {"input", "self", "skip", "feature", "deep"}
    table = list_sites(own())
    assert table["site"][4] == "self.down.0"
    assert (table["kind"][4], table["stage"][4], table["index"][4]) == ("self", "down", 0)


def test_rules_run_in_the_order_of_the_sites_and_get_their_tensors(denoiser: HookedModel) -> None:
    x, t, condition = inputs(denoiser)
    seen: list[Site] = []
    shapes: dict[Site, Any] = {}

    def watching(site: Site) -> Rule:
        def attend(call: AttentionCall) -> torch.Tensor:
            seen.append(site)
            assert call.query.shape[0] == BATCH
            assert call.query.shape[1] == 2
            assert call.query.shape[2] == call.size[0] * call.size[1]
            assert call.key.shape == call.value.shape
            assert call.key.shape[2] == (5 if site.kind == "cross" else call.query.shape[2])
            assert (call.mask is not None) == (site.kind == "cross")
            weights = call.weights()
            torch.testing.assert_close(weights.sum(-1), torch.ones(call.query.shape[:3]))
            torch.testing.assert_close(weights @ call.value, call.attend())
            shapes[site] = call.size
            return call.attend()

        def skip(h: torch.Tensor, skipped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(site)
            shapes[site] = (h.shape, skipped.shape)
            return h, skipped

        def feature(h: torch.Tensor) -> torch.Tensor:
            seen.append(site)
            shapes[site] = h.shape
            return h

        def deep(compute: Callable[[], torch.Tensor]) -> torch.Tensor:
            return feature(compute())

        rules = {"input": feature, "skip": skip, "feature": feature, "deep": deep}
        return rules.get(site.kind, attend)  # type: ignore[return-value]

    denoiser.with_rules({site: watching(site) for site in denoiser.sites()})(x, t, condition)
    assert tuple(seen) == denoiser.sites()
    downs = [shapes[site] for site in select_sites(denoiser, "feature.down")]
    before = [shapes[site] for site in select_sites(denoiser, ["feature.middle", "feature.up"])]
    skips = [shapes[site] for site in select_sites(denoiser, "skip")]
    assert skips == list(zip(before, reversed(downs), strict=False))
    assert [shapes[site] for site in select_sites(denoiser, "deep")] == before[:-1]
    assert {shapes[site] for site in select_sites(denoiser, "self")} == {(SIDE // 2, SIDE // 2)}


def test_rules_that_compute_the_same_do_not_change_the_prediction(denoiser: HookedModel) -> None:
    arguments = inputs(denoiser)
    plain = denoiser(*arguments).value
    ruled = denoiser.with_rules({site: passive(site) for site in denoiser.sites()})
    assert torch.equal(ruled(*arguments).value, plain)


def test_a_rule_at_every_site_changes_the_prediction_and_not_the_original(denoiser: HookedModel) -> None:
    arguments = inputs(denoiser)
    plain = denoiser(*arguments).value
    names = list(denoiser.state_dict())
    for site in denoiser.sites():
        ruled = denoiser.with_rules({site: changing(site)})
        assert not torch.allclose(ruled(*arguments).value, plain, atol=1e-6), site
        assert list(ruled.state_dict()) == names
    assert torch.equal(denoiser(*arguments).value, plain)
    assert {slot.id for slot in list_slots(ruled)} == {slot.id for slot in list_slots(denoiser)}


def test_rules_add_up_and_a_second_one_at_a_site_is_refused(denoiser: HookedModel) -> None:
    arguments = inputs(denoiser)
    first, second = select_sites(denoiser, ["self.middle.0", "skip.up.0"])
    combined = denoiser.with_rules({first: changing(first), second: changing(second)})
    after = denoiser.with_rules({second: changing(second)}).with_rules({first: changing(first)})
    assert torch.equal(combined(*arguments).value, after(*arguments).value)
    with pytest.raises(
        ValueError, match=r"'self\.middle\.0' has a rule already, .*changing.*, .*passive_rule: choose other sites"
    ):
        combined.with_rules({first: passive_rule})


def passive_rule(call: AttentionCall) -> torch.Tensor:
    return call.attend()


def test_an_error_names_a_rule_with_a_result_of_the_wrong_shape(denoiser: HookedModel) -> None:
    (site,) = select_sites(denoiser, "self.middle.0")
    for output, actual in ((None, "NoneType"), (torch.zeros(1), r"shape \(1,\)")):
        with pytest.raises(
            ValueError, match=rf"the rule of site 'self\.middle\.0', gives {actual}.*; expected \(2, 2, 16, "
        ):
            denoiser.with_rules({site: lambda call, output=output: output})(*inputs(denoiser))


def test_an_error_names_the_site_of_a_rule_of_the_wrong_kind(denoiser: HookedModel) -> None:
    attention, skip, feature, deep = (select_sites(denoiser, name)[0] for name in ("self", "skip", "feature", "deep"))
    with pytest.raises(ValueError, match=r"expected a Site, found 'self.middle.0': select_sites"):
        denoiser.with_rules({"self.middle.0": passive_rule})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"expected a Site, found 'self.middle.0'"):
        denoiser.captured(*inputs(denoiser), ["self.middle.0"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"the rule of site 'self\..*' is 3; expected a function"):
        denoiser.with_rules({attention: 3})  # type: ignore[dict-item]
    wrong: list[tuple[Site, Rule, str]] = [
        (skip, passive_rule, "was called with h and the skipped features, and failed"),
        (skip, lambda h, skipped: h, "must give two tensors"),
        (feature, lambda h: h.double(), "torch.float64"),
        (deep, lambda compute: compute()[:1], r"gives shape \(1, .*; expected \(2, "),
        (deep, lambda compute: None, "gives NoneType"),
    ]
    for site, rule, message in wrong:
        with pytest.raises(ValueError, match=rf"the rule of site '{site}'.*{message}"):
            denoiser.with_rules({site: rule})(*inputs(denoiser))


def test_the_mode_of_the_shared_network_stays(denoiser: HookedModel) -> None:
    fresh = type(denoiser)(denoiser.network)
    assert fresh.training
    assert not fresh.network.training
    fresh.with_rules({})
    assert not fresh.network.training


def test_captured_outputs_equal_those_of_torch_hooks(denoiser: HookedModel) -> None:
    arguments = inputs(denoiser)
    network = denoiser.network
    blocks: dict[str, torch.nn.Module] = {}
    if isinstance(denoiser, UNetDenoiser):
        down = [network.stem, network.down[0], network.downsample[0], network.down[1]]
        up = [network.up[0], network.upsample[0], network.up[2], network.up[3]]
        blocks["feature.middle.0"] = network.middle_out
    else:
        down, up = list(network.input_blocks), list(network.output_blocks)
        blocks["feature.middle.0"] = network.middle_block
    blocks |= {f"feature.down.{i}": block for i, block in enumerate(down)}
    blocks |= {f"feature.up.{i}": block for i, block in enumerate(up)}
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        block.register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out}))
        for name, block in blocks.items()
    ]
    plain = denoiser(*arguments).value
    for handle in handles:
        handle.remove()
    prediction, actual = denoiser.captured(*arguments, denoiser.sites())
    assert torch.equal(prediction.value, plain)
    assert tuple(actual) == denoiser.sites()
    assert set(blocks) == {site.name for site in actual if site.kind == "feature"}
    for site, value in actual.items():
        if site.kind == "feature":
            assert torch.equal(value, outputs[site.name]), site
        elif site.kind == "deep":
            below = f"feature.up.{site.index - 1}" if site.index else "feature.middle.0"
            assert torch.equal(value, outputs[below]), site
        elif site.kind == "skip":
            assert torch.equal(value, outputs[f"feature.down.{len(down) - 1 - site.index}"]), site
        elif site.kind == "input":
            assert value.shape[2:] == (SIDE // 2, SIDE // 2), site
        else:
            assert value.shape == (BATCH, 2, (SIDE // 2) ** 2, value.shape[-1])
    (middle,) = select_sites(denoiser, "feature.middle.0")
    x, t, condition = arguments
    assert torch.equal(features(denoiser, x, t, condition, site="feature.middle"), actual[middle])
    with pytest.raises(ValueError, match=r"'skip' names \d+ sites, skip\.up\.0, "):
        features(denoiser, x, t, condition, site="skip")


def test_outputs_are_captured_after_the_rule(denoiser: HookedModel) -> None:
    arguments = inputs(denoiser)
    _, before = denoiser.captured(*arguments, denoiser.sites())
    for site in denoiser.sites():
        _, actual = denoiser.with_rules({site: changing(site)}).captured(*arguments, [site])
        positive = before[site].abs()
        changed_values = {"input": positive, "feature": positive, "deep": positive, "skip": 0.5 * before[site]}
        expected = changed_values.get(site.kind, 1.5 * before[site])
        assert torch.equal(actual[site], expected), site


@pytest.mark.parametrize("make", [lambda: SpatialTransformer(32, None, 2), lambda: AttentionBlock(32, 2, PIXELS)])
def test_the_change_from_what_a_rule_returns_is_added_to_the_features_that_entered(
    make: Callable[[], SpatialTransformer | AttentionBlock],
) -> None:
    block = random(make())
    block.input_site = site = Site("input", "middle", 0)
    x = torch.randn(BATCH, 32, 4, 4, generator=torch.Generator().manual_seed(2))
    actual = block(x, hooks=Hooks({site: torch.neg}))
    torch.testing.assert_close(actual, x + (block(-x) - -x))
    assert (actual - block(x)).abs().max() > 0.1


def test_rules_survive_copies_of_the_model(denoiser: HookedModel) -> None:
    arguments = inputs(denoiser)
    (site,) = select_sites(denoiser, "self.middle.0")
    ruled = denoiser.with_rules({site: changing(site)})
    expected = ruled(*arguments).value
    assert torch.equal(copy_sharing_tensors(ruled)(*arguments).value, expected)
    assert torch.equal(copy_frozen(ruled)(*arguments).value, expected)
    name = next(name for name, parameter in ruled.named_parameters() if parameter.ndim > 1)
    other = {name: 2 * dict(ruled.named_parameters())[name]}
    actual = copy_sharing_tensors(ruled, other)(*arguments).value
    assert not torch.equal(actual, expected)
    assert torch.equal(
        actual, copy_sharing_tensors(denoiser, other).with_rules({site: changing(site)})(*arguments).value
    )
    assert torch.equal(ruled(*arguments).value, expected)


def test_gradients_go_through_rules(denoiser: HookedModel) -> None:
    x, t, condition = inputs(denoiser)
    (site,) = select_sites(denoiser, "self.middle.0")

    def gradient(chosen: HookedModel) -> torch.Tensor:
        point = x.clone().requires_grad_()
        (actual,) = torch.autograd.grad(chosen(point, t, condition).value.sum(), point)
        return actual

    plain = gradient(denoiser)
    torch.testing.assert_close(gradient(denoiser.with_rules({site: passive(site)})), plain)
    assert not torch.allclose(gradient(denoiser.with_rules({site: changing(site)})), plain)


def test_a_denoiser_with_rules_is_not_saved() -> None:
    denoiser = own()
    (site,) = select_sites(denoiser, "self.middle.0")
    with pytest.raises(
        ValueError, match=r"a denoiser with rules cannot be saved.*self\.middle\.0: wire the one without"
    ):
        describe_part(denoiser.with_rules({site: passive(site)}))


def test_an_error_for_an_unknown_site_lists_the_sites() -> None:
    denoiser = random(own())
    wrong = Site("self", "up", 7)
    for call in (
        lambda: denoiser.with_rules({wrong: passive_rule}),
        lambda: denoiser.captured(*inputs(denoiser), [wrong]),
        lambda: select_sites(denoiser, "self.up.7"),
        lambda: select_sites(denoiser, ["self.middle", "self.up.7"]),
    ):
        with pytest.raises(ValueError, match=r"no site 'self\.up\.7'; .*self\.up\.0 … 1.*skip\.up\.0 … 3"):
            call()
    with pytest.raises(ValueError, match="no site is named"):
        select_sites(denoiser, [])


def test_a_guided_denoiser_has_the_hooks_of_its_inner_denoiser() -> None:
    denoiser = random(own())
    x, t, condition = inputs(denoiser)
    negative = Condition(tokens=torch.zeros(1, 1, 12))
    outer = guide_denoiser(denoiser, condition, negative, scale=3.0)
    assert isinstance(outer, HookedDenoiser)
    assert outer.sites() == denoiser.sites()
    (site,) = select_sites(outer, "self.middle.0")
    ruled = outer.with_rules({site: changing(site)})
    inner = denoiser.with_rules({site: changing(site)})
    assert torch.equal(
        ruled(x, t, Condition()).value, guide_denoiser(inner, condition, negative, scale=3.0)(x, t, Condition()).value
    )
    prediction, actual = ruled.captured(x, t, Condition(), [site])
    assert torch.equal(prediction.value, ruled(x, t, Condition()).value)
    assert torch.equal(actual[site], inner.captured(x, t, condition, [site])[1][site])
    assert not isinstance(
        guide_denoiser(lambda x, t, condition: Prediction(x, "eps"), condition, negative), HookedDenoiser
    )


def test_a_guided_denoiser_tells_of_its_guidance_and_of_a_network_that_mixes_tokens() -> None:
    condition = captioned()[2]
    for network, mixes in ((z_image(), True), (mmdit(), False)):
        guided = guide_denoiser(network, condition, condition, scale=3.0)
        assert (guided.mixes_tokens, guided.guides_itself) == (mixes, True)  # type: ignore[attr-defined]


PLUGIN = '''
"""A denoiser without hooks, and one node that asks for them."""

from typing import Any

from guidegraph import Denoiser, HookedDenoiser, OpaqueDenoiser, Prediction, hookimpl, node, select_sites
from tests.nodes.guidance.test_hooks import own, random


@node("inside.lambda")
def plain() -> Denoiser:
    """A function."""
    return lambda x, t, condition: Prediction(x, "eps")


@node("inside.module")
def module() -> Any:
    """A network that is not a denoiser."""
    return own().network.stem


@node("inside.opaque")
def opaque() -> OpaqueDenoiser:
    """A function, and it says so."""
    return lambda x, t, condition: Prediction(x, "eps")


@node("inside.own", host=True)
def hooked() -> Denoiser:
    """A U-Net."""
    return random(own())


@node("inside.halve")
def halve(denoiser: HookedDenoiser, *, sites: str | list[str] = "self") -> HookedDenoiser:
    """Half of each attention."""
    return denoiser.with_rules({site: lambda call: 0.5 * call.attend() for site in select_sites(denoiser, sites)})


@hookimpl
def guidegraph_nodes():
    return [plain, module, opaque, hooked, halve]
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "inside.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return str(path)


def workflow(folder: Path, source: str, between: Mapping[str, str] | None = None) -> Path:
    text = ["guidegraph: 1", "nodes:", "  model: {use: model.load, with: {path: some}}", f"  source: {{use: {source}}}"]
    text += [f"  {name}: {{{body}}}" for name, body in (between or {}).items()]
    last = list(between or {"source": ""})[-1]
    text += [f"  halved: {{use: inside.halve, in: {{denoiser: {last}}}}}"]
    text += ["  sites: {use: denoiser.sites, in: {denoiser: halved}}", "outputs: {sites: sites}"]
    path = folder / "flow.yaml"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_a_denoiser_without_hooks_is_refused_before_the_node_runs(plugin: str, tmp_path: Path) -> None:
    for source, actual in (("inside.lambda", "found function"), ("inside.module", "found PackedConv2d; ")):
        with pytest.raises(NodeError) as caught:
            load_workflow(workflow(tmp_path, source), plugins=[plugin], cache="off").run()
        message = str(caught.value)
        assert "nodes.halved (inside.halve): PortError: port 'denoiser': expected HookedDenoiser, " in message
        assert actual in message
        assert message.endswith("from model.load and checkpoint.load, and from nodes that add rules to one")
    assert load_workflow(workflow(tmp_path, "inside.own"), plugins=[plugin], cache="off").run()["sites"].rows == 29


@pytest.mark.parametrize(
    "source",
    [
        "inside.opaque",
        "onnx.denoiser, with: {path: some}",
        "diffusers.denoiser, in: {schedule: model.schedule}, with: {path: some}",
    ],
)
def test_a_denoiser_that_declares_no_hooks_is_refused_before_a_run(plugin: str, tmp_path: Path, source: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        load_workflow(workflow(tmp_path, source), plugins=[plugin, "guidegraph_diffusers"])
    (problem,) = caught.value.problems
    assert problem.code == "type-mismatch"
    assert (
        "gives OpaqueDenoiser, port 'denoiser' takes HookedDenoiser; denoisers with hooks come from" in problem.message
    )


def test_the_usual_attention_is_softmax_of_products() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    mask = torch.tensor([[True, True, False, True, False]])
    call = AttentionCall(query, key, value, mask, (1, 3))
    kept = key[:, :, mask[0]], value[:, :, mask[0]]
    expected = torch.softmax(query @ kept[0].transpose(-2, -1) / 2, -1) @ kept[1]
    torch.testing.assert_close(attention(query, key, value, mask), expected)
    torch.testing.assert_close(call.weights() @ value, expected)
    assert torch.equal(call.attend(query=2 * query), attention(2 * query, key, value, mask))
    assert torch.equal(call.attend(key=2 * key, value=3 * value), attention(query, 2 * key, 3 * value, mask))


@pytest.mark.slow
def test_a_denoiser_with_rules_exports_with_the_weights_once(plugin: str, tmp_path: Path) -> None:
    changes = [
        ("  positive:", "  halved: {use: inside.halve, in: {denoiser: model.denoiser}}\n  positive:"),
        ("uncond: {use: denoiser.predict, in: {denoiser: model.denoiser", PREDICT_HALVED),
        ("with: {shape: [1, 32, 32]}", "with: {shape: [1, 16, 16]}"),
    ]
    flow = changed(WORKFLOWS / "class_cfg.yaml", changes, _folder(tmp_path, "flow"))
    exported = made(flow, _folder(tmp_path, "bundle"), (plugin,), steps=2, batch=2)
    engine = exported.engine(_folder(tmp_path, "engine"))
    assert difference(exported.run(), engine) < 1e-3
    plain = exported.engine(_folder(tmp_path, "plain"), [("denoiser: halved", "denoiser: model.denoiser")])
    assert difference(plain, engine) > 1e-2
    model = load_part(
        WORKFLOWS / "models" / "fashion_class", "denoiser", device=torch.device("cpu"), dtype=torch.float32
    )
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    written = sum(file.stat().st_size for file in (tmp_path / "bundle" / "bundle").rglob("*") if file.is_file())
    assert weights < written < 1.4 * weights


PREDICT_HALVED = "uncond: {use: denoiser.predict, in: {denoiser: halved"


def _folder(above: Path, name: str) -> Path:
    folder = above / name
    folder.mkdir()
    return folder
