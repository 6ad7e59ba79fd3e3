import shutil

import pytest
import torch

from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import load_adapter, read_adapter_config, save_adapter


@pytest.fixture
def picture():
    return torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def output_with(folder, picture):
    sam = build_sam("vit_mini", image_size=64)
    load_adapter(sam, folder)
    return PromptableSam(sam)(picture)


def test_the_list_names_what_is_whole_and_what_is_not(cobot, adapter_folder, tmp_path):
    shutil.copytree(adapter_folder, tmp_path / "good" / "best")
    shutil.copytree(adapter_folder, tmp_path / "bad")
    (tmp_path / "bad" / "adapter_model.safetensors").unlink()
    ended = cobot("adapters", "list", tmp_path)
    assert ended.code == 0
    assert "good/best" in ended.out
    assert "lora with COBOT" in ended.out
    assert "is missing" in ended.out
    assert cobot("adapters", "list", tmp_path / "good" / "best" / "x").code == 1


def test_names_are_shown_as_they_are(cobot, adapter_folder, tmp_path):
    names = ("run [best]", "[", "[bold]")
    for name in names:
        shutil.copytree(adapter_folder, tmp_path / name)
    sam = build_sam("vit_mini", image_size=64)
    adapter = load_adapter(sam, adapter_folder)
    save_adapter(adapter, tmp_path / "labels", labels={"lung [left]": 1, "[/x]": 2})
    (tmp_path / "[bold]" / "adapter_model.safetensors").unlink()
    ended = cobot("adapters", "list", tmp_path)
    assert ended.code == 0, ended.err
    assert all(name in ended.out for name in (*names, "lung [left], [/x]"))
    ended = cobot("adapters", "info", tmp_path / "labels")
    assert ended.code == 0, ended.err
    assert "lung [left]" in ended.out
    assert "[/x]" in ended.out


def test_info_shows_what_an_adapter_says_of_itself(cobot, adapter_folder):
    shown = cobot("adapters", "info", adapter_folder).out
    for expected in ("lora", "window:-100,200", "ball", "vit_mini", read_adapter_config(adapter_folder).base_sha256):
        assert expected in shown


def test_verify_finds_a_changed_file(cobot, adapter_folder, tmp_path):
    assert "fits its SAM" in cobot("adapters", "verify", adapter_folder).out
    folder = shutil.copytree(adapter_folder, tmp_path / "changed")
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    ended = cobot("adapters", "verify", folder)
    assert ended.code == 1
    assert "SHA-256 differs" in ended.err


def test_a_folded_adapter_is_plain_and_computes_the_same(cobot, adapter_folder, tmp_path, picture):
    ended = cobot("adapters", "fold", adapter_folder, tmp_path / "folded")
    assert ended.code == 0, ended.err
    config = read_adapter_config(tmp_path / "folded")
    assert config.orchestration is None
    assert (config.preset, config.labels) == ("window:-100,200", {"ball": 1})
    assert torch.allclose(output_with(tmp_path / "folded", picture), output_with(adapter_folder, picture), atol=1e-4)
    again = cobot("adapters", "fold", tmp_path / "folded", tmp_path / "twice")
    assert again.code == 1
    assert "no COBOT to fold" in again.err


@torch.no_grad()
def test_a_merged_sam_needs_no_adapter(cobot, adapter_folder, tmp_path, picture):
    merged = tmp_path / "merged.safetensors"
    ended = cobot("adapters", "merge", adapter_folder, merged)
    assert ended.code == 0, ended.err
    network = PromptableSam(build_sam("vit_mini", merged, image_size=64))
    assert torch.allclose(network(picture), output_with(adapter_folder, picture), atol=1e-3)
    assert "exists already" in cobot("adapters", "merge", adapter_folder, merged).err


def test_the_relation_matrix_of_an_adapter_with_cobot_is_drawn(cobot, adapter_folder, tmp_path):
    ended = cobot("adapters", "relation", adapter_folder, tmp_path / "relation.png")
    assert ended.code == 0
    assert (tmp_path / "relation.png").is_file()
    assert cobot("adapters", "fold", adapter_folder, tmp_path / "folded").code == 0
    ended = cobot("adapters", "relation", tmp_path / "folded", tmp_path / "none.png")
    assert ended.code == 1
    assert "without COBOT, or was folded" in ended.err
