from importlib import import_module
from pathlib import Path

import pytest
import torch

from monai_cobot.networks import VARIANTS, FusedAttention, PromptableSam, build_sam
from monai_cobot.networks import sam as sam_module
from monai_cobot.networks._segment_anything import Block, Sam

STOCK_PARAMETERS = {"vit_b": 93_735_472, "vit_l": 312_342_832, "vit_h": 641_090_608}
"""Of the published checkpoints, without the buffer of random frequencies."""


@pytest.mark.parametrize("variant", STOCK_PARAMETERS)
def test_published_variants_have_the_published_number_of_parameters(variant: str) -> None:
    with torch.device("meta"):
        sam = sam_module._assemble(VARIANTS[variant], 1024)
    assert sum(parameter.numel() for parameter in sam.parameters()) == STOCK_PARAMETERS[variant]


def test_keys_shapes_and_normalisation_are_those_of_the_stock_builder() -> None:
    build_sam_vit_b = import_module("segment_anything.build_sam").build_sam_vit_b
    with torch.device("meta"):
        own, stock = sam_module._assemble(VARIANTS["vit_b"], 1024), build_sam_vit_b()
    assert {key: tensor.shape for key, tensor in own.state_dict().items()} == {
        key: tensor.shape for key, tensor in stock.state_dict().items()
    }
    torch.testing.assert_close(own.pixel_mean, stock.pixel_mean)
    torch.testing.assert_close(own.pixel_std, stock.pixel_std)


def test_the_small_variant_stays_small() -> None:
    assert sum(parameter.numel() for parameter in build_sam("vit_mini").parameters()) < 6_000_000


def test_blocks_attend_globally_where_the_variant_says_and_all_are_fused() -> None:
    encoder = build_sam("vit_mini").image_encoder
    assert all(isinstance(block, Block) and type(block.attn) is FusedAttention for block in encoder.blocks)
    found = tuple(index for index, block in enumerate(encoder.blocks) if block.window_size == 0)
    assert found == VARIANTS["vit_mini"].global_blocks


def test_without_weights_every_call_gives_the_same_and_leaves_the_random_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_module, "WEIGHTS_FOLDER", tmp_path)
    state = torch.random.get_rng_state()
    first = build_sam("vit_mini", image_size=64).state_dict()
    torch.rand(3)
    second = build_sam("vit_mini", image_size=64).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.random.set_rng_state(state)
    build_sam("vit_mini", image_size=64)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_in_the_package_are_taken_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_sam: type[Sam]
) -> None:
    from safetensors.torch import save_file

    state = random_sam(64).state_dict()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "vit_mini.safetensors")
    monkeypatch.setattr(sam_module, "WEIGHTS_FOLDER", tmp_path)
    built = build_sam("vit_mini", image_size=64).state_dict()
    assert all(torch.equal(state[key], built[key]) for key in state)


def test_an_unknown_variant_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="vit_b, vit_l, vit_h, vit_mini"):
        build_sam("vit_t")


@pytest.mark.parametrize("size", [0, -16, 100, 64.0])
def test_an_image_size_between_the_patches_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} does not fit vit_b.*multiple of 16"):
        build_sam("vit_b", image_size=size)


@pytest.mark.parametrize("size", [64, 96, 160])
def test_any_multiple_of_the_patch_size_segments(size: int) -> None:
    network = PromptableSam(build_sam("vit_mini", image_size=size))
    with torch.no_grad():
        assert network.encode(torch.rand(1, 1, 90, 70)).shape == (1, 128, size // 8, size // 8)
        assert network(torch.rand(1, 1, 90, 70)).isfinite().all()
