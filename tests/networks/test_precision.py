import copy
from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling import Sam
from torch.nn import functional as F

from monai_cobot.networks import PromptableSam, base_weights_sha256, build_sam
from monai_cobot.networks import precision as precision_module
from monai_cobot.networks.precision import HeldWeights, computing_type, has_fast_bfloat16
from monai_cobot.peft import adapt

BuildSam = Callable[..., Sam]
IMAGE = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_bfloat16_computes_products_so_and_keeps_weights_gradients_and_logits_in_float32(random_sam: BuildSam) -> None:
    sam = random_sam()
    adapter = adapt(sam, "lora", orchestrate=True)
    network = PromptableSam(sam, precision="bfloat16").train()
    types = []
    sam.image_encoder.blocks[0].mlp.lin1.register_forward_hook(lambda _, __, output: types.append(output.dtype))
    sam.mask_decoder.transformer.final_attn_token_to_image.q_proj.register_forward_hook(
        lambda _, __, output: types.append(output.dtype)
    )
    logits = network(IMAGE)
    logits.square().mean().backward()
    assert types == [torch.bfloat16, torch.bfloat16]
    assert logits.dtype == torch.float32
    trained = dict(adapter.named_parameters())
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert trained["image_encoder.orchestrator.relation"].grad.dtype == torch.float32
    exact = PromptableSam(sam)(IMAGE)
    assert not torch.equal(logits, exact)
    assert F.cosine_similarity(logits.flatten(), exact.flatten(), dim=0) > 0.95


def test_the_two_parts_in_bfloat16_are_exactly_the_whole(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam(), precision="bfloat16")
    with torch.no_grad():
        assert torch.equal(network.encode_rest(network.encode_frozen(IMAGE, 4)), network.encode(IMAGE))


def test_auto_is_bfloat16_exactly_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for amx, avx512_bf16 in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=avx512_bf16: has)
        assert has_fast_bfloat16(device) is (amx or avx512_bf16)
        assert computing_type("auto", device) == (torch.bfloat16 if amx or avx512_bf16 else torch.float32)
    assert computing_type("auto", torch.device("meta")) == torch.float32


def test_float32_leaves_an_autocast_around_the_network_alone(random_sam: BuildSam) -> None:
    sam = random_sam()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(PromptableSam(sam)(IMAGE), PromptableSam(sam, "bfloat16")(IMAGE))


def test_a_traced_network_computes_in_float32(random_sam: BuildSam) -> None:
    sam = random_sam()
    with torch.no_grad():
        traced = torch.jit.trace(PromptableSam(sam, "bfloat16"), IMAGE, check_trace=False)
        torch.testing.assert_close(traced(IMAGE), PromptableSam(sam)(IMAGE), rtol=1e-4, atol=1e-4)


def test_an_unknown_precision_is_refused(random_sam: BuildSam) -> None:
    with pytest.raises(ValueError, match="Unknown precision 'half': expected one of auto, float32, bfloat16"):
        PromptableSam(random_sam(), precision="half")


@pytest.fixture
def holding(random_sam: BuildSam, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PromptableSam]:
    """Builds a network in bfloat16 that holds its frozen weights, as a large one does."""
    monkeypatch.setattr("monai_cobot.networks.promptable.WORTH_HOLDING", 0)

    def build(sam: Sam | None = None) -> PromptableSam:
        return PromptableSam(sam or random_sam(), "bfloat16")

    return build


def cast_by_autocast(network: PromptableSam) -> PromptableSam:
    """The same network, with every weight cast at every pass."""
    plain = copy.copy(network)
    plain.held_weights = None
    return plain


def test_held_weights_compute_bit_for_bit_what_autocast_does(
    random_sam: BuildSam, holding: Callable[..., PromptableSam]
) -> None:
    sam = random_sam()
    adapter = adapt(sam, "lora", orchestrate=True)
    network = holding(sam)
    gradients = []
    for variant in (cast_by_autocast(network), network, network):
        adapter.sam.zero_grad(set_to_none=True)
        logits = variant(IMAGE)
        logits.square().mean().backward()
        trained = [parameter.grad for _, parameter in adapter.named_parameters() if parameter.grad is not None]
        assert trained
        gradients.append([logits.detach(), *trained])
    for found in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, gradients[0], strict=True))


def test_frozen_weights_are_cast_once_and_anew_when_they_change(
    random_sam: BuildSam, holding: Callable[..., PromptableSam]
) -> None:
    sam = random_sam()
    adapter = adapt(sam, "lora", decoder="frozen")
    network = holding(sam)
    weight = sam.image_encoder.blocks[0].mlp.lin1.weight
    seen = []
    sam.image_encoder.blocks[0].mlp.lin1.register_forward_hook(
        lambda module, _, __: seen.append(network.held_weights.cast(module.weight, torch.bfloat16))
    )
    with torch.no_grad():
        network(IMAGE)
        network(IMAGE)
        weight.mul_(2)
        doubled = network(IMAGE)
    assert seen[0] is seen[1]
    assert seen[2] is not seen[1]
    assert torch.equal(seen[2], weight.bfloat16())
    for change in (
        adapter.merge,
        adapter.unmerge,
        lambda: sam.load_state_dict(random_sam().state_dict(), strict=False),
    ):
        change()
        with torch.no_grad():
            assert torch.equal(network(IMAGE), cast_by_autocast(network)(IMAGE))
    assert not torch.equal(doubled, network(IMAGE))


def test_holding_weights_changes_nothing_that_is_saved(holding: Callable[..., PromptableSam]) -> None:
    sam = build_sam("vit_mini", image_size=64)
    digest = base_weights_sha256(sam)
    network = holding(sam)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        first = network(IMAGE)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(tensor, before[name]) and tensor.dtype == torch.float32 for name, tensor in after.items())
    assert base_weights_sha256(sam) == digest
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(network)(IMAGE), first)


def test_trained_weights_are_left_to_autocast_while_there_are_gradients() -> None:
    held = HeldWeights()
    trained, frozen = torch.nn.Parameter(torch.rand(3)), torch.nn.Parameter(torch.rand(3), requires_grad=False)
    assert held.cast(trained, torch.bfloat16) is trained
    assert held.cast(frozen, torch.bfloat16).dtype == torch.bfloat16
    assert held.cast(None, torch.bfloat16) is None
    with torch.no_grad():
        assert held.cast(trained, torch.bfloat16).dtype == torch.bfloat16


def test_small_networks_leave_all_casts_to_autocast(random_sam: BuildSam) -> None:
    sam = random_sam()
    assert sum(parameter.numel() for parameter in sam.parameters()) < precision_module.WORTH_HOLDING
    assert PromptableSam(sam, "bfloat16").held_weights is None
