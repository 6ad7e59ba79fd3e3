"""SAMs of several sizes and weights in one engine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from COBOTLib.engines.base import EngineError, Scan
from COBOTLib.engines.in_process import InProcessEngine
from COBOTLib.grid import Grid, VoxelBox
from COBOTLib.jobs import Job
from COBOTLib.prompts import SlicePrompt

from monai_cobot.networks import VARIANTS, build_sam
from monai_cobot.peft import adapt, save_adapter

PROMPT = SlicePrompt(2, 3, VoxelBox((8, 6, 3), (30, 26, 4)))


def job():
    return Job(lambda job: None)


@pytest.fixture
def scan():
    _, j, i = np.indices((8, 36, 40))
    inside = ((j - 16) / 9) ** 2 + ((i - 19) / 10) ** 2 <= 1
    return Scan("1", "CT", np.where(inside, 180, 20).astype(np.int16), Grid(np.eye(4), (40, 36, 8)))


@pytest.fixture
def segments(scan):
    return lambda engine, adapter: engine.segment(scan, PROMPT, adapter, "window:0,200", job()) is not None


def save(folder, **sam):
    save_adapter(adapt(build_sam(**sam), "lora", decoder="frozen"), folder)
    return str(folder)


def test_adapters_of_other_image_sizes_run_side_by_side(tmp_path, segments):
    small = save(tmp_path / "small", variant="vit_mini", image_size=128)
    large = save(tmp_path / "large", variant="vit_mini")
    engine = InProcessEngine(adapters_folder=tmp_path, device="cpu")
    assert [info.id for info in engine.adapters(job())] == [large, small, "bare vit_mini"]
    for adapter in (small, large, "bare vit_mini", small):
        assert segments(engine, adapter)
    engine.close()


def test_a_chosen_file_of_weights_takes_the_place_of_those_of_the_package(tmp_path, segments):
    sam = build_sam("vit_mini", image_size=128)
    sam.load_state_dict({key: tensor * 1.001 for key, tensor in sam.state_dict().items()})
    torch.save(sam.state_dict(), tmp_path / "mine.pth")
    adapter = save(tmp_path / "adapter", variant="vit_mini", checkpoint=tmp_path / "mine.pth", image_size=128)
    own = InProcessEngine(tmp_path / "mine.pth", tmp_path, "cpu")
    assert "vit_mini on cpu" in own.test(job())
    assert segments(own, adapter)
    own.close()
    with pytest.raises(EngineError, match="was trained on other weights"):
        segments(InProcessEngine(None, tmp_path, "cpu"), adapter)


def test_an_adapter_of_another_sam_is_listed_says_which_weights_it_needs_and_runs_with_them(
    tmp_path, segments, monkeypatch
):
    # as ViT-B, but a second's work
    monkeypatch.setitem(VARIANTS, "vit_low", replace(VARIANTS["vit_mini"], depth=2, global_blocks=(1,)))
    sam = build_sam("vit_low", image_size=64)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    adapter = str(save_adapter(adapt(sam, "bitfit", decoder="frozen"), tmp_path / "liver"))
    without = InProcessEngine(adapters_folder=tmp_path, device="cpu")
    assert [info.title for info in without.adapters(job())] == ["liver", "vit_mini, as it is"]
    with pytest.raises(EngineError, match=r'weights of SAM\'s vit_low.*"SAM weights"'):
        segments(without, adapter)
    engine = InProcessEngine(tmp_path / "sam.pth", tmp_path, "cpu")
    assert [info.title for info in engine.adapters(job())] == ["liver", "vit_low, as it is", "vit_mini, as it is"]
    segments(engine, adapter)
    assert segments(engine, "bare vit_mini")
    engine.close()


def test_a_file_that_holds_no_sam_is_refused_with_the_reason(tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"<html>Not found</html>")
    with pytest.raises(EngineError, match=r"SAM could not be loaded.*damaged"):
        InProcessEngine(tmp_path / "sam.pth", device="cpu").adapters(job())
    with pytest.raises(EngineError, match="no checkpoint"):
        InProcessEngine(tmp_path / "gone.pth", device="cpu").test(job())
