from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling import Sam
from torch.nn import functional as F

from monai_cobot.networks import PromptableSam
from monai_cobot.networks.precision import computing_type, has_fast_bfloat16
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
