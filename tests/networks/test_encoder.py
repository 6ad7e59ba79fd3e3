from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, Sam

from monai_cobot.networks import PromptableSam, build_sam, frozen_depth, set_gradient_checkpointing
from monai_cobot.peft import adapt

BuildSam = Callable[..., Sam]


@pytest.mark.parametrize("depth", range(10))
def test_the_two_parts_of_the_encoder_are_exactly_the_whole(random_sam: BuildSam, depth: int) -> None:
    network = PromptableSam(random_sam())
    image, boxes = torch.rand(2, 1, 50, 64), torch.tensor([[5.0, 5, 40, 30], [0, 10, 64, 50]])
    with torch.no_grad():
        features = network.encode_frozen(image, depth)
        assert features.values.shape == ((2, 128, 8, 8) if depth == 9 else (2, 8, 8, 192))
        assert torch.equal(network.encode_rest(features), network.encode(image))
        assert torch.equal(network(image, boxes, features), network(image, boxes))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("method", ["lora", "adaptformer"])
def test_going_on_from_frozen_features_gives_the_gradients_of_the_whole(
    random_sam: BuildSam, method: str, checkpointed: bool
) -> None:
    sam = random_sam()
    options = {"dropout": 0.0} if method == "adaptformer" else {}
    adapter = adapt(sam, method, orchestrate=True, blocks=3, **options)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    set_gradient_checkpointing(sam, checkpointed)
    network = PromptableSam(sam).train()
    image = torch.rand(1, 1, 64, 64)
    assert frozen_depth(sam) == 5
    gradients = []
    for features in (None, network.encode_frozen(image, 5)):
        sam.zero_grad()
        network(image, None, features).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() >= {"image_encoder.orchestrator.relation"}
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


@pytest.mark.parametrize(
    ("method", "options", "depth"),
    [
        ("decoder_only", {}, 9),
        ("freeze", {}, 9),
        ("lora", {"orchestrate": True}, 0),
        ("lora", {"blocks": 1}, 7),
        ("adaptformer", {"orchestrate": True, "blocks": 2}, 6),
        ("adaptformer", {"blocks": 8}, 0),
    ],
)
def test_what_is_in_front_of_the_first_trained_weight_is_frozen(method: str, options: dict, depth: int) -> None:
    sam = build_sam("vit_mini", image_size=64)
    assert frozen_depth(sam) == 0
    adapt(sam, method, **options)
    assert frozen_depth(sam) == depth


def test_a_trained_neck_or_position_ends_what_is_frozen() -> None:
    sam = build_sam("vit_mini", image_size=64).requires_grad_(False)
    sam.image_encoder.neck[0].weight.requires_grad_(True)
    assert frozen_depth(sam) == 8
    sam.image_encoder.pos_embed.requires_grad_(True)
    assert frozen_depth(sam) == 0


def test_a_sam_that_segment_anything_built_runs_in_two_parts_too() -> None:
    own = build_sam("vit_mini", image_size=64)
    encoder = own.image_encoder
    encoder.__class__ = ImageEncoderViT  # as its own build functions make it
    expected = encoder(torch.ones(1, 3, 64, 64))
    network = PromptableSam(own)
    torch.testing.assert_close(encoder(torch.ones(1, 3, 64, 64)), expected, rtol=1e-5, atol=1e-6)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.encode_rest(network.encode_frozen(image, 3)), network.encode(image))


def test_building_with_gradient_checkpointing_computes_the_blocks_twice() -> None:
    sam = build_sam("vit_mini", image_size=64, gradient_checkpointing=True).train()
    runs: list[int] = []
    sam.image_encoder.blocks[1].register_forward_pre_hook(lambda *_: runs.append(1))
    sam.image_encoder(torch.ones(1, 3, 64, 64)).mean().backward()
    assert len(runs) == 2


def test_features_lie_token_by_token_in_memory_from_the_patch_embedding_on(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam())
    for depth in range(4):
        with torch.no_grad():
            features = network.encode_frozen(torch.rand(1, 1, 64, 64), depth).values
        assert features.is_contiguous(), "what acts on each token would copy it first"
