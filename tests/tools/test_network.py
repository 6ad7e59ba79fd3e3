"""One SAM for images of several sizes, against SAMs built for each size."""

import pytest
import torch
from pretraining.network import ResizableSam, initialise
from torch import Generator

from monai_cobot.networks import PromptableSam, build_sam, load_into


@pytest.mark.parametrize("size", [64, 256])
def test_every_size_gives_what_a_sam_built_for_it_gives(size: int, generator: Generator) -> None:
    sam = build_sam("vit_mini")
    torch.manual_seed(0)
    for block in sam.image_encoder.blocks:
        torch.nn.init.normal_(block.attn.rel_pos_h, std=0.1)
    built = build_sam("vit_mini", image_size=size)
    load_into(built, sam.state_dict())
    images = torch.rand(2, 1, size, size, generator=generator)
    boxes = torch.tensor([[[3.0, 5.0, 40.0, 50.0], [10.0, 10.0, 20.0, 33.0]]]).expand(2, -1, -1)
    network = ResizableSam(sam)
    with torch.no_grad():
        embeddings = network.encode(images)
        logits, quality = network.decode(embeddings, network.box_tokens(boxes))
        expected = PromptableSam(built)(images, boxes)
    resized = torch.nn.functional.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized, expected, rtol=1e-3, atol=1e-4)
    assert quality.shape == (2, 2)


def test_a_point_on_the_grid_of_the_logits_is_the_middle_of_the_image_pixels_it_stands_for() -> None:
    sam = build_sam("vit_mini")
    network = ResizableSam(sam)
    with torch.no_grad():
        network.encode(torch.zeros(1, 1, 64, 64))  # logits of 32 x 32: two pixels of the image each
        tokens = network.point_tokens(torch.tensor([[[[5, 7]]]]), torch.tensor([[[1]]]))
        expected = sam.prompt_encoder._embed_points(torch.tensor([[[10.5, 14.5]]]), torch.tensor([[1]]), pad=False)
    torch.testing.assert_close(tokens[0], expected)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, second, third = build_sam("vit_mini"), build_sam("vit_mini"), build_sam("vit_mini")
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    state = torch.random.get_rng_state()
    for sam, seed in ((first, 0), (second, 0), (third, 1)):
        initialise(sam, seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [sam.state_dict() for sam in (first, second, third)]
    reset = [key for key in weights[0] if torch.equal(weights[0][key], weights[1][key])]
    assert set(weights[0]) == set(reset)
    assert not torch.equal(weights[0]["image_encoder.pos_embed"], weights[2]["image_encoder.pos_embed"])
