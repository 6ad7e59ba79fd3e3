import pytest
import torch

from monai_cobot.networks import ClassHead, PromptableSam, build_sam, class_head_of
from monai_cobot.peft import METHODS, adapt, load_adapter, save_adapter


@pytest.fixture
def sam():
    return build_sam("vit_mini", image_size=64)


@pytest.fixture
def images():
    return torch.rand(2, 1, 40, 64, generator=torch.Generator().manual_seed(0))


def written_out(sam, image: torch.Tensor) -> torch.Tensor:
    """The equation of the head with segment_anything's own decoder parts, for one image (1, 1, 64, 64)."""
    head, decoder = sam.mask_decoder.class_head, sam.mask_decoder
    embedding = PromptableSam(sam).encode(image)
    _, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    tokens = torch.cat([decoder.iou_token.weight, head.tokens])[None]
    queries, keys = decoder.transformer(embedding + dense, sam.prompt_encoder.get_dense_pe(), tokens)
    upscaled = decoder.output_upscaling(keys.transpose(1, 2).view(embedding.shape))[0]  # (C / 8, 4 h, 4 w)
    first, second, _ = decoder.output_hypernetworks_mlps[0].layers
    masks = []
    for k in range(head.classes + 1):
        hidden = second(first(queries[0, 1 + k]).relu()).relu()
        weights = head.weight[k] @ hidden + head.bias[k]
        masks.append((weights[:, None, None] * upscaled).sum(0))
    return torch.stack(masks)[None]


@torch.no_grad()
def test_the_logits_are_those_of_the_equation(sam):
    adapt(sam, "decoder_only", classes=3)
    head = class_head_of(sam)
    for parameter in head.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    logits = PromptableSam(sam)(image)
    assert logits.shape == (1, 4, 64, 64)
    coarse = torch.nn.functional.interpolate(written_out(sam, image), (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, coarse, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_fresh_head_is_sams_mask_without_a_prompt_for_every_class_and_its_negative_for_the_background(sam, images):
    adapt(sam, "lora", classes=2)
    logits = PromptableSam(sam)(images)
    assert logits.shape == (2, 3, 40, 64)
    torch.testing.assert_close(logits[:, 1], logits[:, 2])
    hypernetwork = sam.mask_decoder.output_hypernetworks_mlps[0]
    tokens = torch.randn(1, 3, 128, generator=torch.Generator().manual_seed(0))
    weights = class_head_of(sam).mask_weights(sam.mask_decoder, tokens)
    torch.testing.assert_close(weights[:, 1:], hypernetwork(tokens[:, 1:]))
    torch.testing.assert_close(weights[:, 0], -hypernetwork(tokens[:, 0]))


@torch.no_grad()
def test_a_batch_is_its_images_one_by_one(sam, images):
    adapt(sam, "lora", classes=2)
    network = PromptableSam(sam)
    torch.testing.assert_close(
        network(images), torch.cat([network(image[None]) for image in images]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"freeze"}))
@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_every_method_trains_classes_and_all_that_it_trains_has_a_gradient(sam, images, method, decoder):
    adapter = adapt(sam, method, decoder=decoder, classes=2)
    network = PromptableSam(sam).train()
    target = torch.randint(0, 3, (2, 40, 64), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD([parameter for _, parameter in adapter.named_parameters()], lr=1e-3)
    for _ in range(2):  # what stands behind a factor of zero has its gradient in the second step
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), target) + adapter.auxiliary_loss()
        loss.backward()
        optimizer.step()
    without = [
        name
        for name, parameter in adapter.named_parameters()
        if name.startswith("mask_decoder.") and parameter.grad is None
    ]
    assert without == []
    assert {name.split(".")[1] for name, _ in adapter.named_parameters() if "class_head" in name} == {"class_head"}


def test_boxes_and_points_are_refused_by_a_network_with_classes(sam, images):
    adapt(sam, "lora", classes=2)
    network = PromptableSam(sam)
    boxes = torch.tensor([[1.0, 1.0, 9.0, 9.0]] * 2)
    with pytest.raises(ValueError, match="without prompts"):
        network(images, boxes)
    with pytest.raises(ValueError, match="without prompts"):
        network.decode(network.encode(images), boxes, (40, 64))


@torch.no_grad()
def test_removing_the_adapter_gives_the_promptable_sam_back(sam, images):
    network = PromptableSam(sam)
    before, names = network(images), list(sam.state_dict())
    adapter = adapt(sam, "lora", classes=2)
    assert network(images).shape[1] == 3
    adapter.remove()
    assert list(sam.state_dict()) == names
    torch.testing.assert_close(network(images), before, rtol=0, atol=0)


@torch.no_grad()
def test_a_saved_adapter_remembers_its_classes_and_is_small(sam, images, tmp_path):
    adapter = adapt(sam, "lora", orchestrate=True, decoder="lora", classes=5)
    for _, parameter in adapter.named_parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    expected = PromptableSam(sam)(images)
    labels = {name: value for value, name in enumerate("abcde", start=1)}
    folder = save_adapter(adapter, tmp_path / "adapter", labels=labels)
    other = build_sam("vit_mini", image_size=64)
    loaded = load_adapter(other, folder)
    assert loaded.classes == 5
    torch.testing.assert_close(PromptableSam(other)(images), expected, rtol=0, atol=0)
    assert (folder / "adapter_model.safetensors").stat().st_size < 2_000_000


def test_the_parameters_are_those_of_the_formula():
    decoder = build_sam("vit_mini", image_size=64).mask_decoder
    width = decoder.transformer_dim
    count = sum(parameter.numel() for parameter in ClassHead(decoder, 5).parameters())
    assert count == 6 * (width + width // 8 * (width + 1))


@pytest.mark.parametrize("classes", [0, -1, 1.5, True])
def test_a_number_of_classes_that_is_none_is_refused_and_changes_nothing(sam, classes):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        adapt(sam, "lora", classes=classes)
    assert class_head_of(sam) is None
    assert all(parameter.requires_grad for parameter in sam.parameters())


def test_freeze_has_nothing_to_learn_classes_with(sam):
    with pytest.raises(ValueError, match="freeze"):
        adapt(sam, "freeze", classes=2)
