"""SAMs of several sizes and weights in one engine."""

import socket
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from COBOTLib.engines import in_process
from COBOTLib.engines.base import EngineError, Scan
from COBOTLib.engines.in_process import InProcessEngine
from COBOTLib.grid import Grid, VoxelBox
from COBOTLib.jobs import Job
from COBOTLib.prompts import SlicePrompt

from monai_cobot.data import volume_from_array
from monai_cobot.inferers import AdapterShelf, EmbeddingCache, VolumeSession
from monai_cobot.networks import VARIANTS, build_sam
from monai_cobot.peft import adapt, save_adapter
from monai_cobot.transforms import find_preset, intensity_range

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


def test_adapters_that_take_no_prompts_are_not_listed(tmp_path):
    save_adapter(adapt(build_sam("vit_mini"), "bitfit", decoder="frozen", classes=2), tmp_path, labels={"a": 1, "b": 2})
    engine = InProcessEngine(adapters_folder=tmp_path, device="cpu")
    assert [info.title for info in engine.adapters(job())] == ["vit_mini, as it is"]
    engine.close()


def test_an_error_of_pytorch_is_told_in_its_first_line():
    assert in_process._explained(RuntimeError("shapes differ\nException raised from here\nframe #0")) == "shapes differ"
    assert in_process._explained(ValueError("one\ntwo")) == "one\ntwo"
    assert in_process._explained(RuntimeError()) == "RuntimeError"


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
    tmp_path, scan, segments, monkeypatch
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
    found = engine.segment(scan, PROMPT, adapter, "window:0,200", job())
    volume = volume_from_array(scan.array.transpose(2, 1, 0), scan.grid.ijk_to_ras, "CT")
    shelf = AdapterShelf(build_sam("vit_low", tmp_path / "sam.pth", 64))
    with VolumeSession(volume, shelf.load(adapter), "window:0,200") as session:  # without Slicer's side
        # along i, j, k of this scan the slices' axes are turned: right and anterior are high
        session.segment_slice("axial", 3, (40 - 30, 36 - 26, 40 - 8, 36 - 6))
        expected = session.mask(1).transpose(2, 1, 0)
    whole = np.zeros_like(expected)
    if found is not None:
        whole[found.box.slices] = found.array
    assert (whole == expected).all()
    assert segments(engine, "bare vit_mini")
    engine.close()


def test_without_a_network_the_sam_of_the_package_segments(segments, monkeypatch):
    def refuse(*_):
        raise OSError("there is no network here")

    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    engine = InProcessEngine(device="cpu")
    assert [info.id for info in engine.adapters(job())] == ["bare vit_mini"]
    assert segments(engine, "bare vit_mini")
    engine.close()


def test_a_slice_is_encoded_once_for_all_prompts_also_where_the_window_changes_and_returns(scan, monkeypatch):
    encoded, put = [], EmbeddingCache.put
    monkeypatch.setattr(EmbeddingCache, "put", lambda cache, *of: (encoded.append(of[:2]), put(cache, *of)))
    engine = InProcessEngine(device="cpu")
    other_box = SlicePrompt(2, 3, VoxelBox((6, 6, 3), (32, 28, 4)))
    for prompt, window in ((PROMPT, "0,200"), (other_box, "0,200"), (PROMPT, "0,400"), (PROMPT, "0,200")):
        engine.segment(scan, prompt, "bare vit_mini", f"window:{window}", job())
    assert len(engine._sessions) == 1
    engine.close()  # and the slices that are encoded ahead have ended
    assert encoded
    assert len(encoded) == len(set(encoded))


def test_an_oblique_plane_has_the_contrast_that_slices_of_its_volume_have(scan):
    values = np.random.default_rng(0).integers(1, 3000, scan.array.shape, np.int16)
    volume = replace(scan, array=values)
    plane = Scan("plane", "MR", scan.array[3:4], Grid(np.eye(4), (40, 36, 1)), volume)  # has 20 and 180 alone
    engine = InProcessEngine(device="cpu")
    prompt = SlicePrompt(2, 0, VoxelBox((8, 6, 0), (30, 26, 1)))
    for preset in (None, "mr", "ct_abdomen", None):
        engine.segment(plane, prompt, "bare vit_mini", preset, job())
        used = find_preset(engine._sessions[plane.key][1].preset)
        assert used.window == intensity_range(values, preset or "mr")
    engine.close()


def test_nothing_of_a_scan_is_kept_when_it_is_forgotten(scan, segments):
    engine = InProcessEngine(device="cpu")
    assert segments(engine, "bare vit_mini")
    assert engine._cache._memory
    engine.forget_scans()
    assert not engine._sessions
    assert not engine._cache._memory
    assert segments(engine, "bare vit_mini")
    engine.close()
    assert segments(engine, "bare vit_mini")
    engine.close()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nand how"), MemoryError()]
)
def test_where_memory_is_short_that_is_said_with_what_to_do(segments, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(VolumeSession, "segment_slice", fail)
    engine = InProcessEngine(device="cpu")
    with pytest.raises(EngineError, match=r"The memory is full \(.*\)\. Close other volumes") as raised:
        segments(engine, "bare vit_mini")
    assert "how" not in str(raised.value)
    engine.close()


@pytest.mark.parametrize(("missing", "advice"), [(["torch"], "Install packages"), ([], "damaged.*pip_uninstall")])
def test_packages_that_cannot_be_imported_are_said_with_what_helps(monkeypatch, missing, advice):
    monkeypatch.setattr(in_process, "missing", lambda: missing)
    monkeypatch.setitem(sys.modules, "monai_cobot.inferers", None)
    with pytest.raises(EngineError, match=advice):
        InProcessEngine().test(job())


def test_a_file_that_holds_no_sam_is_refused_with_the_reason(tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"<html>Not found</html>")
    with pytest.raises(EngineError, match=r"SAM could not be loaded.*damaged"):
        InProcessEngine(tmp_path / "sam.pth", device="cpu").adapters(job())
    with pytest.raises(EngineError, match="no checkpoint"):
        InProcessEngine(tmp_path / "gone.pth", device="cpu").test(job())
