import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from monai_cobot.networks import (
    VARIANTS,
    base_weights_sha256,
    build_sam,
    build_sam_without_weights,
    load_checkpoint,
    load_into,
    set_attention,
)
from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.checkpoint import checkpoint_variant
from monai_cobot.networks.sam import _assemble

BuildSam = Callable[..., Sam]


class Custom:
    """An object that only unpickling could bring back."""


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {"lr": 1e-4}, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"model": {f"module.sam.{key}": tensor for key, tensor in state.items()}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save_are_read_in_every_wrapping(
    random_sam: BuildSam, tmp_path: Path, wrap: Callable[[dict], dict], zipped: bool
) -> None:
    state = dict(random_sam().state_dict())
    torch.save(wrap(state), tmp_path / "sam.pth", _use_new_zipfile_serialization=zipped)
    assert_same(load_checkpoint(tmp_path / "sam.pth"), state)


def test_safetensors_are_read(random_sam: BuildSam, tmp_path: Path) -> None:
    state = {f"module.{key}": tensor.contiguous() for key, tensor in random_sam().state_dict().items()}
    save_file(state, tmp_path / "sam.safetensors")
    assert_same(load_checkpoint(str(tmp_path / "sam.safetensors")), dict(random_sam().state_dict()))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"PK\x03\x04 and then nothing", bytes(5000)])
def test_files_without_weights_are_named_in_the_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"sam.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"sam\.{suffix} is (empty|damaged).*download or save it again"):
        load_checkpoint(path)


def test_the_variant_of_a_file_is_told_by_its_shapes(random_sam: BuildSam, tmp_path: Path) -> None:
    state = random_sam().state_dict()
    torch.save(state, tmp_path / "sam.pth")
    assert checkpoint_variant(tmp_path / "sam.pth") == "vit_mini"
    torch.save({key: tensor for key, tensor in state.items() if "blocks.7." not in key}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="width 192 and depth 7: expected the weights of one of vit_b"):
        checkpoint_variant(tmp_path / "sam.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="no image encoder"):
        checkpoint_variant(tmp_path / "sam.pth")


def test_a_file_that_was_cut_off_is_called_damaged(random_sam: BuildSam, tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save(random_sam().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*sam\.pth"):
        load_checkpoint(tmp_path / "sam.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_other_python_objects_is_not_unpickled(tmp_path: Path, zipped: bool) -> None:
    torch.save({"model": Custom()}, tmp_path / "sam.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="could run any code"):
        load_checkpoint(tmp_path / "sam.pth")


def test_a_plain_pickle_is_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / "sam.pth").write_bytes(pickle.dumps({"model": Custom()}))
    with pytest.raises(ValueError, match=r"sam\.pth"):
        load_checkpoint(tmp_path / "sam.pth")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: name the file in it"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, torch.zeros(3), {"model": {"a": torch.zeros(1), "b": 3}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_checkpoint(tmp_path / "sam.pth")


def test_a_checkpoint_is_loaded_as_it_is_and_in_float32(random_sam: BuildSam, tmp_path: Path) -> None:
    state = {key: tensor.half() for key, tensor in random_sam().state_dict().items()}
    torch.save(state, tmp_path / "sam.pth")
    sam = build_sam("vit_mini", tmp_path / "sam.pth", image_size=64)
    assert_same(dict(sam.state_dict()), {key: tensor.float() for key, tensor in state.items()})
    assert not any(tensor.is_meta for tensor in (*sam.parameters(), *sam.buffers()))
    assert all(parameter.requires_grad for parameter in sam.parameters())


def test_all_mismatches_are_listed_at_once_and_nothing_is_loaded(random_sam: BuildSam) -> None:
    sam, state = random_sam(), dict(random_sam().state_dict())
    before = {key: tensor.clone() for key, tensor in sam.state_dict().items()}
    del state["mask_decoder.iou_token.weight"]
    state["image_encoder.neck.0.weight"] = torch.zeros(2, 3, 1, 1)
    state |= {f"extra.{index}": torch.zeros(1) for index in range(12)}
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_into(sam, state)
    message = str(caught.value)
    assert "Missing (1): mask_decoder.iou_token.weight" in message
    assert "Unexpected (12): extra.0, extra.1" in message
    assert "and 2 more" in message
    assert "image_encoder.neck.0.weight (2, 3, 1, 1) instead of (128, 192, 1, 1)" in message
    assert "looks like" not in message
    assert_same(dict(sam.state_dict()), before)


def test_a_checkpoint_of_another_variant_is_recognised(random_sam: BuildSam) -> None:
    with torch.device("meta"):
        state = _assemble(VARIANTS["vit_l"], 1024).state_dict()
    with pytest.raises(ValueError, match="looks like vit_l, where vit_mini was expected"):
        load_into(random_sam(), state)


def test_window_tables_of_another_size_are_not_resized(random_sam: BuildSam) -> None:
    sam, state = random_sam(), dict(random_sam().state_dict())
    state["image_encoder.blocks.0.attn.rel_pos_h"] = torch.zeros(27, 64)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.rel_pos_h \(27, 64\) instead of \(15, 64\)"):
        load_into(sam, state)


def test_a_global_table_that_contradicts_the_positions_is_not_resized(random_sam: BuildSam) -> None:
    sam, state = random_sam(), dict(random_sam(128).state_dict())
    state["image_encoder.blocks.2.attn.rel_pos_h"] = torch.zeros(27, 64)
    with pytest.raises(ValueError, match=r"Wrong shape \(1\): image_encoder\.blocks\.2\.attn\.rel_pos_h"):
        load_into(sam, state)


@pytest.mark.parametrize("size", [64, 96, 160])
def test_relative_positions_at_another_size_are_those_that_stock_interpolates_at_run_time(
    random_sam: BuildSam, size: int
) -> None:
    state = random_sam(128).state_dict()
    sam = build_sam("vit_mini", image_size=size)
    load_into(sam, state)
    image = torch.rand(1, 3, size, size)
    with torch.no_grad():
        ours = sam.image_encoder(image)
        set_attention(sam, "stock")
        for index in VARIANTS["vit_mini"].global_blocks:  # the tables of the checkpoint, as they are
            attention = sam.image_encoder.blocks[index].attn
            for name in ("rel_pos_h", "rel_pos_w"):
                table = state[f"image_encoder.blocks.{index}.attn.{name}"]
                setattr(attention, name, torch.nn.Parameter(table))
        torch.testing.assert_close(ours, sam.image_encoder(image), rtol=1e-4, atol=1e-4)


def test_resized_positions_keep_a_gradient_along_the_axes(random_sam: BuildSam) -> None:
    state = dict(random_sam(128).state_dict())
    rows = torch.linspace(0, 1, 16).view(1, 16, 1, 1).expand(1, 16, 16, 192).contiguous()
    state["image_encoder.pos_embed"] = rows
    sam = random_sam(64)
    load_into(sam, state)
    resized = sam.image_encoder.pos_embed.detach()
    assert resized.shape == (1, 8, 8, 192)
    assert (resized.diff(dim=1) > 0.08).all()
    assert resized.diff(dim=2).abs().max() < 1e-5


def test_an_official_vit_b_checkpoint_fits_a_smaller_image_size(tmp_path: Path) -> None:
    with torch.device("meta"):
        stock = _assemble(VARIANTS["vit_b"], 1024)
    stock.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    state = stock.state_dict()
    for tensor in state.values():
        tensor.copy_(0.01 * torch.randn((), generator=generator))
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    sam = build_sam("vit_b", tmp_path / "sam_vit_b_01ec64.pth", image_size=256)
    loaded = sam.state_dict()
    assert loaded["image_encoder.pos_embed"].shape == (1, 16, 16, 768)
    assert loaded["image_encoder.blocks.2.attn.rel_pos_h"].shape == (31, 64)
    assert torch.equal(loaded["image_encoder.blocks.11.mlp.lin2.bias"], state["image_encoder.blocks.11.mlp.lin2.bias"])
    assert torch.equal(loaded["image_encoder.blocks.0.attn.rel_pos_h"], state["image_encoder.blocks.0.attn.rel_pos_h"])
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_the_digest_is_that_of_names_shapes_and_values_without_the_positions_of_an_image_size(
    random_sam: BuildSam,
) -> None:
    sam = random_sam()
    fitted = {"image_encoder.pos_embed"}
    fitted |= {f"image_encoder.blocks.{block}.attn.rel_pos_{axis}" for block in (3, 7) for axis in "hw"}
    expected = hashlib.sha256()
    for name in sorted(sam.state_dict().keys() - fitted):
        values = sam.state_dict()[name]
        expected.update(f"{name}{tuple(values.shape)}".encode() + values.numpy().astype("<f4").tobytes())
    assert base_weights_sha256(sam) == expected.hexdigest()


def test_the_digest_is_the_same_at_every_image_size(random_sam: BuildSam, tmp_path: Path) -> None:
    sam = random_sam(128)
    save_file(sam.state_dict(), tmp_path / "sam.safetensors")
    assert base_weights_sha256(build_sam("vit_mini", tmp_path / "sam.safetensors", 64)) == base_weights_sha256(sam)


def test_the_digest_is_that_of_the_weights_that_were_loaded_last(random_sam: BuildSam) -> None:
    loaded, other = random_sam(), build_sam("vit_mini", image_size=64)
    for sam in (build_sam_without_weights("vit_mini", image_size=64), other):
        sam.known_sha256 = base_weights_sha256(sam)
        load_into(sam, loaded.state_dict())
        assert base_weights_sha256(sam) == base_weights_sha256(loaded)


def test_the_digest_sees_one_changed_number_and_not_the_kind_of_attention(random_sam: BuildSam) -> None:
    sam = random_sam()
    before = base_weights_sha256(sam)
    set_attention(sam, "stock")
    assert base_weights_sha256(sam) == before
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight[0, 0] += 1e-3
    assert base_weights_sha256(sam) != before


@pytest.mark.filterwarnings("error")
def test_random_published_weights_are_announced() -> None:
    with pytest.raises(UserWarning, match="vit_b was built without a checkpoint: its weights are random"):
        build_sam("vit_b", image_size=64)
