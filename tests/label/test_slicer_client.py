"""The engine of the module COBOT in 3D Slicer, on the real server."""

import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import monai_cobot

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "SlicerCOBOT"), str(Path(__file__).parents[1] / "slicer")]

from COBOTLib.engines.base import EngineError, Scan  # noqa: E402
from COBOTLib.engines.in_process import InProcessEngine  # noqa: E402
from COBOTLib.engines.monai_label import MonaiLabelEngine  # noqa: E402
from COBOTLib.grid import Grid, VoxelBox, VoxelMask  # noqa: E402
from COBOTLib.jobs import Cancelled, Job  # noqa: E402
from COBOTLib.prompts import PropagationPrompt, RegionPrompt, SlicePrompt  # noqa: E402
from running_server import PATIENCE  # noqa: E402
from spaces import SPACES  # noqa: E402

SHAPE = (20, 36, 40)  # (K, J, I)
PROMPTS = {
    "box": SlicePrompt(2, 9, VoxelBox((8, 6, 9), (30, 26, 10))),
    "box and points across": SlicePrompt(
        0, 19, VoxelBox((19, 6, 4), (20, 26, 15)), positive=((19, 16, 9),), negative=((19, 8, 5),)
    ),
    "points": SlicePrompt(1, 16, positive=((19, 16, 9),)),
    "3D box": RegionPrompt(2, VoxelBox((8, 6, 4), (30, 26, 15))),
    "propagation": PropagationPrompt(
        2, (VoxelBox((8, 6, 7), (30, 26, 8)), VoxelBox((8, 6, 11), (30, 26, 12))), reach=1
    ),
}


def job():
    return Job(lambda job: None)


def scan_in(space: str) -> Scan:
    k, j, i = np.indices(SHAPE)
    inside = ((k - 9) / 5) ** 2 + ((j - 16) / 9) ** 2 + ((i - 19) / 10) ** 2 <= 1
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    return Scan(space, "CT", (np.where(inside, 180, 20) + noise).astype(np.int16), Grid(SPACES[space], SHAPE[::-1]))


@pytest.fixture(scope="module")
def remote(server) -> MonaiLabelEngine:
    return MonaiLabelEngine(server.address)


def test_the_server_introduces_itself_and_lists_each_adapter_once(remote, server):
    assert remote.test(job()).startswith(f"monai_cobot {monai_cobot.__version__} on {server.address}")
    assert {"ball", "other", "vit_mini"} <= {info.id for info in remote.adapters(job())}
    assert not any("slices" in info.id for info in remote.adapters(job()))


@pytest.mark.parametrize("space", ["axial", "sagittal", "oblique anisotropic", "left-handed"])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_mask_is_that_of_the_engine_in_slicers_own_python(remote, server, space, prompt):
    scan = scan_in(space)
    engine = InProcessEngine(adapters_folder=server.adapters, device="cpu")
    expected = engine.segment(scan, prompt, str(server.adapters / "other"), "window:0,200", job())
    found = remote.segment(scan, prompt, "other", "window:0,200", job())
    engine.close()
    assert expected.array.any()
    assert found.box == expected.box
    assert (found.array == expected.array).all()


def test_errors_of_the_server_reach_the_user_with_their_reason(remote):
    with pytest.raises(EngineError, match="no model 'nothing'"):
        remote.segment(scan_in("axial"), PROMPTS["box"], "nothing", None, job())
    with pytest.raises(EngineError, match="unknown intensity preset"):
        remote.segment(scan_in("axial"), PROMPTS["box"], "other", "ct_knee", job())


def test_cancelling_ends_the_wait(remote):
    waiting = job()
    threading.Timer(0.05, waiting.cancel).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        _segment_often(remote, waiting)
    assert time.monotonic() - begun < 60


def _segment_often(remote: MonaiLabelEngine, waiting: Job) -> None:
    for _ in range(500):
        remote.segment(scan_in("axial"), PROMPTS["3D box"], "other", "window:0,200", waiting)


def test_a_training_is_followed_until_its_adapter_is_listed(remote, server):
    for number in range(2):
        assert server.submit(f"ball_{number}", server.studies / "truth" / f"ball_{number}.nii.gz", {"ball": 1}).ok
    new = {"name": "from Slicer", "method": "lora", "rank": 4, "decoder": "frozen", "orchestrate": True}
    remote.train("vit_mini", job(), {**new, "epochs": 1, "min_foreground": 10, "batch_size": 4})
    with pytest.raises(EngineError, match="trains already"):
        remote.train("ball", job())
    end = time.monotonic() + PATIENCE
    while (training := remote.training(job())).runs:
        assert time.monotonic() < end, training
        time.sleep(0.1)
    assert training.status == "DONE", training
    assert training.said
    assert "from Slicer" in {info.id for info in remote.adapters(job())}
    assert remote.segment(scan_in("axial"), PROMPTS["box"], "from Slicer", "window:0,200", job()) is not None
    shutil.rmtree(server.adapters / "from Slicer")  # the server is that of other tests too


def test_corrected_segments_are_kept_as_the_label_of_their_scan(remote, server):
    box = VoxelBox((9, 8, 5), (25, 22, 12))
    labels = {"ball": VoxelMask(box, np.ones(box.shape, bool))}
    image_id = remote.submit(scan_in("sagittal"), labels, job())
    other = scan_in("sagittal")  # another patient's scan of the same name
    other.array[:] = other.array[::-1]
    other_id = remote.submit(other, labels, job())
    assert remote.submit(scan_in("sagittal"), labels, job()) == image_id
    stored = server.ask("GET", "/datastore/?output=all").json()["objects"]
    for name in {image_id, other_id}:
        assert stored[name]["labels"]["final"]["info"]["label_info"] == [{"name": "ball", "idx": 1}]
        server.ask("DELETE", "/datastore/image", params={"id": name})
    assert image_id != other_id


def test_scans_are_deleted_on_the_server_when_they_are_forgotten(server):
    remote = MonaiLabelEngine(server.address)
    remote.segment(scan_in("axial"), PROMPTS["box"], "other", None, job())
    (session,) = remote._sessions.values()
    assert server.ask("GET", f"/session/{session}").status_code == 200
    remote.forget_scans()
    assert server.ask("GET", f"/session/{session}").status_code == 404
