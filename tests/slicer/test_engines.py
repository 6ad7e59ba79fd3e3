"""One contract for all engines, and what a server can do wrong."""

import re
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from COBOTLib.engines.base import EngineError, Scan
from COBOTLib.engines.http import Server
from COBOTLib.engines.in_process import InProcessEngine
from COBOTLib.engines.monai_label import MonaiLabelEngine, Training
from COBOTLib.grid import Grid, VoxelBox, VoxelMask
from COBOTLib.jobs import Cancelled, Job
from COBOTLib.prompts import PropagationPrompt, RegionPrompt, SlicePrompt
from label_server import LabelServer, read
from spaces import SPACES

SHAPE = (20, 36, 40)  # (K, J, I)
LOW, HIGH = (8, 6, 4), (30, 26, 15)  # around the ellipsoid, (i, j, k)


def job():
    return Job(lambda job: None)


def ellipsoid():
    k, j, i = np.indices(SHAPE)
    return ((k - 9) / 5) ** 2 + ((j - 16) / 9) ** 2 + ((i - 19) / 10) ** 2 <= 1


@pytest.fixture(params=SPACES.values(), ids=SPACES)
def scan(request):
    array = np.where(ellipsoid(), 180, 20).astype(np.int16)
    return Scan("1", "CT", array, Grid(request.param, SHAPE[::-1]))


@pytest.fixture
def one_scan():
    array = np.where(ellipsoid(), 180, 20).astype(np.int16)
    return Scan("1", "CT", array, Grid(SPACES["axial"], SHAPE[::-1]))


@pytest.fixture
def server():
    with LabelServer() as server:
        yield server


@pytest.fixture(scope="module")
def loaded_engine():
    engine = InProcessEngine(device="cpu")
    yield engine
    engine.close()


@pytest.fixture(params=["in process", "MONAI Label"])
def engine(request):
    if request.param == "in process":
        return request.getfixturevalue("loaded_engine")
    return MonaiLabelEngine(request.getfixturevalue("server").address)


@pytest.fixture
def adapter(engine):
    return engine.adapters(job())[0].id


def slice_box(axis, index):
    low, high = list(LOW), list(HIGH)
    low[axis], high[axis] = index, index + 1
    return VoxelBox(tuple(low), tuple(high))


def overlap(found: VoxelMask, expected: np.ndarray) -> float:
    """DSC."""
    whole = np.zeros(SHAPE, bool)
    whole[found.box.slices] = found.array
    return 2 * (whole & expected).sum() / (whole.sum() + expected.sum())


def test_an_engine_says_what_runs_and_lists_what_segments(engine):
    assert engine.test(job()).endswith(".")
    adapters = engine.adapters(job())
    assert adapters
    assert len({info.id for info in adapters}) == len(adapters)
    assert all(info.title for info in adapters)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_in_a_slice_gives_the_mask_of_its_object_in_that_slice(engine, adapter, scan, axis):
    index = (19, 16, 9)[axis]
    found = engine.segment(scan, SlicePrompt(axis, index, slice_box(axis, index)), adapter, "window:0,200", job())
    assert (found.box.low[axis], found.box.high[axis]) == (index, index + 1)
    expected = np.zeros(SHAPE, bool)
    at = VoxelBox(*((*LOW[:axis], index, *LOW[axis + 1 :]), (*HIGH[:axis], index + 1, *HIGH[axis + 1 :]))).slices
    expected[at] = ellipsoid()[at]
    assert overlap(found, expected) > 0.7


def test_points_may_come_with_a_box_or_alone(engine, adapter, one_scan):
    box = slice_box(2, 9)
    both = SlicePrompt(2, 9, box, positive=((19, 16, 9),), negative=((9, 7, 9),))
    assert engine.segment(one_scan, both, adapter, "window:0,200", job()).array.any()
    found = engine.segment(one_scan, SlicePrompt(2, 9, positive=((19, 16, 9),)), adapter, "window:0,200", job())
    assert (found.box.low[2], found.box.high[2]) == (9, 10)


def test_a_3d_box_gives_a_mask_within_it(engine, adapter, scan):
    box = VoxelBox(LOW, HIGH)
    found = engine.segment(scan, RegionPrompt(2, box), adapter, "window:0,200", job())
    assert box.holds(found.box)
    assert overlap(found, ellipsoid()) > 0.7


def test_boxes_on_two_slices_are_joined(engine, adapter, one_scan):
    prompt = PropagationPrompt(2, (slice_box(2, 7), slice_box(2, 11)), reach=0)
    found = engine.segment(one_scan, prompt, adapter, "window:0,200", job())
    assert (found.box.low[2], found.box.high[2]) == (7, 12)


def test_two_answers_to_the_same_prompt_are_equal(engine, adapter, one_scan):
    prompt = SlicePrompt(2, 9, slice_box(2, 9))
    first, second = (engine.segment(one_scan, prompt, adapter, "window:0,200", job()) for _ in range(2))
    assert first.box == second.box
    assert (first.array == second.array).all()


def test_an_adapter_that_is_not_there_is_an_error_with_its_name(engine, one_scan):
    with pytest.raises(EngineError, match="nowhere"):
        engine.segment(one_scan, SlicePrompt(2, 9, slice_box(2, 9)), "nowhere", None, job())


def test_a_cancelled_job_gives_no_mask(engine, adapter, one_scan):
    cancelled = job()
    cancelled.cancel()
    with pytest.raises(Cancelled):
        engine.segment(one_scan, RegionPrompt(2, VoxelBox(LOW, HIGH)), adapter, "window:0,200", cancelled)


def test_in_process_work_stops_between_two_slices(loaded_engine, one_scan):
    seen = []

    class Stopping(Job):
        def report(self, done, total):
            seen.append((done, total))
            if len(seen) == 2:
                self.cancel()
            super().report(done, total)

    other = Scan("stopping", "CT", one_scan.array, one_scan.grid)
    prompt = RegionPrompt(2, VoxelBox(LOW, HIGH))
    with pytest.raises(Cancelled):
        loaded_engine.segment(other, prompt, "bare vit_mini", "window:0,200", Stopping(None))
    assert len(seen) == 2
    assert seen[0][1] == HIGH[2] - LOW[2]


def test_a_folder_of_adapters_is_listed_before_sam_as_it_is_and_a_damaged_one_is_passed_over(tmp_path, one_scan):
    from monai_cobot.networks import build_sam
    from monai_cobot.peft import adapt, save_adapter

    save_adapter(adapt(build_sam("vit_mini"), "lora", decoder="frozen"), tmp_path / "liver", labels={"liver": 1})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "adapter_config.json").write_text("{", encoding="utf-8")
    engine = InProcessEngine(adapters_folder=tmp_path, device="cpu")
    titles = [info.title for info in engine.adapters(job())]
    assert titles == ["liver", "vit_mini, as it is"]
    found = engine.segment(one_scan, SlicePrompt(2, 9, slice_box(2, 9)), str(tmp_path / "liver"), "window:0,200", job())
    assert found.array.any()
    with pytest.raises(EngineError, match="adapter could not be loaded"):
        engine.segment(one_scan, SlicePrompt(2, 9, slice_box(2, 9)), str(tmp_path / "damaged"), None, job())
    engine.close()
    with pytest.raises(EngineError, match="Choose the folder"):
        InProcessEngine(adapters_folder=tmp_path / "gone").adapters(job())


# --- the server


PROMPT = SlicePrompt(2, 9, slice_box(2, 9), positive=((19, 16, 9),))


@pytest.fixture
def remote(server):
    return MonaiLabelEngine(server.address)


def test_a_scan_is_sent_once_and_again_where_the_server_has_forgotten_it(remote, server, one_scan):
    for _ in range(3):
        remote.segment(one_scan, PROMPT, "bright one", None, job())
    assert [path for command, path in server.requests if command == "PUT"] == ["/session/"]
    server.sessions.clear()  # it was started again, or the session has expired
    assert remote.segment(one_scan, PROMPT, "bright one", None, job()).array.any()
    image, grid = read(server.sessions["s0"])
    assert (image == one_scan.array).all()
    assert grid.offset_in(one_scan.grid) == (0, 0, 0)


def test_the_server_is_told_the_prompt_in_voxels_of_the_scan(remote, server, one_scan):
    remote.segment(one_scan, PROMPT, "bright one", "ct_abdomen", job())
    assert server.params[0] == {
        "slice_axis": 2,
        "slice": 9,
        "box": [8, 6, 9, 30, 26, 10],
        "foreground": [[19, 16, 9]],
        "background": [],
        "preset": "ct_abdomen",
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_crop": True,
    }


def test_a_label_map_of_the_box_alone_is_put_at_its_place(remote, server, scan):
    whole = remote.segment(scan, PROMPT, "bright one", None, job())
    server.crop_answers = True
    part = remote.segment(scan, PROMPT, "bright one", None, job())
    assert part.box == whole.box
    assert (part.array == whole.array).all()


def test_nothing_found_is_no_mask(remote, one_scan):
    empty = SlicePrompt(2, 0, VoxelBox((0, 0, 0), (4, 4, 1)))
    assert remote.segment(one_scan, empty, "bright one", None, job()) is None


def test_only_models_that_take_prompts_are_listed_and_each_once(remote):
    assert [info.id for info in remote.adapters(job())] == ["bright one"]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("vanish", "ended the connection"),
        ("page", "not a MONAI Label server with COBOT's app: its answer holds no JSON"),
        ("other json", 'its answer holds no "models"'),
        ("cut", "ended the connection"),
        ("error", "HTTP 500: Internal Server Error"),
        ("login", "asks for a login"),
    ],
)
def test_a_server_that_misbehaves_is_an_error_that_says_how(remote, server, behaviour, message):
    server.behaviour = behaviour
    with pytest.raises(EngineError, match=message) as raised:
        remote.test(job())
    assert server.address in str(raised.value)


def test_a_server_that_is_not_there_says_how_to_start_it(server):
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(EngineError, match="cobot serve"):
        MonaiLabelEngine(address).test(job())


def test_a_server_that_does_not_answer_is_given_up(server):
    server.behaviour = "hang"
    with pytest.raises(EngineError, match="does not answer"):
        Server(server.address, timeout=0.2).request("GET", "/info/", job())


def test_a_server_killed_between_two_prompts_is_an_error_and_works_again_after_a_restart(one_scan):
    with LabelServer() as server:
        port = server.server_port
        remote = MonaiLabelEngine(server.address)
        remote.segment(one_scan, PROMPT, "bright one", None, job())
    with pytest.raises(EngineError, match="No server answers"):
        remote.segment(one_scan, PROMPT, "bright one", None, job())

    class Again(LabelServer):
        def server_bind(self):
            self.server_address = ("127.0.0.1", port)
            super().server_bind()

    with Again():
        assert remote.segment(one_scan, PROMPT, "bright one", None, job()).array.any()


def test_a_label_map_that_cannot_be_read_is_an_error(remote, server, one_scan):
    server.behaviour = "nonsense in infer"
    with pytest.raises(EngineError, match="no label map"):
        remote.segment(one_scan, PROMPT, "bright one", None, job())


def test_cancelling_ends_the_wait_for_a_slow_server_at_once(remote, server, one_scan):
    server.behaviour = "hang in infer"
    waiting, raised = job(), []

    def segment():
        try:
            remote.segment(one_scan, PROMPT, "bright one", None, waiting)
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=segment)
    thread.start()
    assert server.reached.wait(20)
    time.sleep(0.05)
    waiting.cancel()
    thread.join(20)  # the server goes on waiting for a minute
    assert not thread.is_alive()
    assert raised


@pytest.mark.parametrize(
    "address", ["http://" + 64 * "a" + ".org", "", "127.0.0.1:8000", "ftp://host", "http://", "http://host:port"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(EngineError, match=r"Write it as http://127\.0\.0\.1:8000"):
        MonaiLabelEngine(address)


def test_corrected_segments_become_a_label_on_the_server_with_the_scan_where_it_has_none(remote, server, scan):
    first = VoxelBox((1, 2, 3), (5, 6, 7))
    second = VoxelBox((4, 5, 6), (9, 9, 9))
    labels = {name: VoxelMask(box, np.ones(box.shape, bool)) for name, box in (("liver", first), ("lesion", second))}
    image_id, again = (remote.submit(scan, labels, job()) for _ in range(2))
    assert again == image_id
    assert image_id.startswith("CT_")
    assert server.requests.count(("PUT", "/datastore/image")) == 1
    tag, file, params = server.labels[image_id]
    assert tag == "final"
    assert params == {"label_info": [{"name": "liver", "idx": 1}, {"name": "lesion", "idx": 2}]}
    label_map, grid = read(file)
    assert grid.offset_in(scan.grid) == (0, 0, 0)
    expected = np.zeros(SHAPE)
    expected[first.slices] = 1
    expected[second.slices] = 2
    assert (label_map == expected).all()


def test_scans_of_two_patients_with_one_name_are_two_images(remote, server, one_scan):
    box = VoxelBox((1, 2, 3), (5, 6, 7))
    labels = {"liver": VoxelMask(box, np.ones(box.shape, bool))}
    other = Scan("2", one_scan.name, one_scan.array + 1, one_scan.grid)
    elsewhere = Scan("3", one_scan.name, one_scan.array, Grid(SPACES["sagittal"], SHAPE[::-1]))
    names = {remote.submit(scan, labels, job()) for scan in (one_scan, other, elsewhere)}
    assert len(names) == 3
    assert server.images.keys() == server.labels.keys() == names
    image, _ = read(server.images[remote.submit(other, labels, job())])
    assert (image == other.array).all()


@pytest.mark.parametrize("name", ["../../etc", ".hidden", "1: CT / arterial?", "", "Schädel"])
def test_a_volume_of_any_name_gets_an_image_id_that_is_the_name_of_a_file(remote, server, one_scan, name):
    box = VoxelBox((1, 2, 3), (5, 6, 7))
    scan = Scan("1", name, one_scan.array, one_scan.grid)
    image_id = remote.submit(scan, {"liver": VoxelMask(box, np.ones(box.shape, bool))}, job())
    assert re.fullmatch(r"[\w -]+", image_id)
    assert image_id in server.labels


def test_a_datastore_that_fails_gets_no_scan_twice(remote, server, one_scan):
    server.behaviour = "broken datastore"
    box = VoxelBox((1, 2, 3), (5, 6, 7))
    with pytest.raises(EngineError, match="the disk is full"):
        remote.submit(one_scan, {"liver": VoxelMask(box, np.ones(box.shape, bool))}, job())
    assert not server.images
    assert not server.labels


@pytest.mark.parametrize(
    ("cobot", "message"),
    [
        (None, 'app "Test" of MONAI Label.*cobot serve --studies'),
        ("0.1", "cobot serve --studies"),
        (
            {"version": "0.0.9", "prompts": 0},
            r"monai_cobot 0\.0\.9 on .* is older than this module.*pip install --upgrade",
        ),
        ({"version": "9.0", "prompts": 2}, r"This module is older than monai_cobot 9\.0.*Extensions Manager"),
    ],
    ids=["foreign", "nonsense", "older", "newer"],
)
def test_a_server_that_understands_other_prompts_is_refused_with_what_to_update(remote, server, cobot, message):
    server.cobot = cobot
    for ask in (remote.test, remote.adapters):
        with pytest.raises(EngineError, match=message):
            ask(job())


def test_what_the_server_refuses_is_told_with_its_reason_and_no_other_advice(remote, one_scan):
    with pytest.raises(EngineError, match=r"There is no model 'nothing' available$"):
        remote.segment(one_scan, PROMPT, "nothing", None, job())


def test_scans_are_deleted_on_the_server_when_they_are_forgotten_also_where_it_is_gone(remote, server, one_scan):
    remote.segment(one_scan, PROMPT, "bright one", None, job())
    assert server.sessions
    remote.forget_scans()
    assert not server.sessions
    assert remote.segment(one_scan, PROMPT, "bright one", None, job()).array.any()
    server.shutdown()
    server.server_close()
    remote.close()


def test_a_server_that_does_not_answer_is_asked_once_to_forget_scans(remote, server, one_scan):
    for number in range(3):
        remote.segment(replace(one_scan, key=str(number)), PROMPT, "bright one", None, job())
    server.behaviour = "vanish"
    remote.forget_scans()
    assert [command for command, _ in server.requests].count("DELETE") == 1


def test_the_oldest_scan_is_deleted_on_the_server_where_too_many_were_sent(remote, server, one_scan):
    for number in range(9):
        remote.segment(replace(one_scan, key=str(number)), PROMPT, "bright one", None, job())
    assert list(server.sessions) == [f"s{number}" for number in range(1, 9)]


def test_what_is_sent_is_told_as_progress_and_stops_between_two_pieces(remote, server):
    noise = np.random.default_rng(0).integers(-30000, 30000, (40, 200, 200), np.int16)
    scan = Scan("large", "CT", noise, Grid(SPACES["axial"], noise.shape[::-1]))
    seen = []

    class Stopping(Job):
        def report(self, done, total):
            seen.append((done, total))
            if done > 0:
                self.cancel()
            super().report(done, total)

    with pytest.raises(Cancelled):
        remote.segment(scan, PROMPT, "bright one", None, Stopping(None))
    (zero, total), (done, _) = seen
    assert zero == 0
    assert 0 < done < total
    assert total > 1_000_000
    assert not server.sessions


def test_cancelling_ends_the_wait_for_a_connection_at_once(one_scan):
    with socket.socket() as full:  # takes no connection: what waits for one waits
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting_already = []
        for _ in range(4):
            waiting_already.append(socket.socket())
            waiting_already[-1].setblocking(False)
            waiting_already[-1].connect_ex(address)
        waiting = job()
        threading.Timer(0.2, waiting.cancel).start()
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            Server(f"http://127.0.0.1:{address[1]}", timeout=60).request("GET", "/info/", waiting)
        assert time.monotonic() - begun < 30
        for other in waiting_already:
            other.close()


def test_https_to_a_server_without_it_is_not_called_a_matter_of_trust(server):
    address = server.address.replace("http:", "https:")
    with pytest.raises(EngineError, match=r"write the address with http://"):
        Server(address).request("GET", "/info/", job())


def test_a_training_is_started_watched_and_stopped(remote, server):
    assert remote.training(job()) is None
    remote.train("bright one", job())
    assert remote.training(job()) == Training("RUNNING", "epoch 2/8")
    assert remote.training(job()).runs
    with pytest.raises(EngineError, match="trains already"):
        remote.train("bright one", job())
    remote.stop_training(job())
    assert remote.training(job()).status == "STOPPED"
    assert not remote.training(job()).runs
