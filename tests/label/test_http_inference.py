"""The real server, asked as its clients ask."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_server import save_series

import monai_cobot
from monai_cobot.inferers import AdapterShelf, Point, Region, VolumeSession, region_from_source

BALL = {"slice_axis": 2, "slice": 6, "box": [4, 9, 6, 21, 22, 7]}


@pytest.fixture(scope="module")
def torso(server, shared_data: Path, shelf: AdapterShelf) -> Iterator[VolumeSession]:
    """The same CT, model and preset in this process."""
    model = shelf.load(server.adapters / "ball")
    with VolumeSession(server.studies / "torso.nii.gz", model, "ct_abdomen", look_ahead=False) as session:
        yield session


@pytest.fixture
def ball(server, shelf: AdapterShelf) -> Iterator[VolumeSession]:
    model = shelf.load(server.adapters / "ball")
    with VolumeSession(server.studies / "ball_0.nii.gz", model, look_ahead=False) as session:
        yield session


def test_the_server_lists_its_models_trainers_strategies_and_images(server):
    info = server.ask("GET", "/info/").json()
    assert info["name"] == "COBOT"
    assert {name: model["dimension"] for name, model in info["models"].items()} == {
        **dict.fromkeys(("ball", "blind", "other", "vit_mini"), 3),
        **dict.fromkeys(("ball_slices", "blind_slices", "other_slices", "vit_mini_slices"), 2),
    }
    assert {model["type"] for model in info["models"].values()} == {"deepgrow"}
    assert info["models"]["ball"]["labels"] == ["ball"]
    assert info["models"]["ball_slices"]["in_slices_of"] == "ball"
    assert list(info["trainers"]) == ["ball", "blind", "other", "vit_mini"]
    assert list(info["strategies"]) == ["uncertainty", "random"]
    assert info["labels"] == ["ball"]
    assert info["datastore"]["total"] >= 3
    assert info["cobot"] == {"version": monai_cobot.__version__, "prompts": 1}


def _in_slice(session: VolumeSession) -> None:
    region = region_from_source(Region((30, 40, 60), (70, 80, 61)), session.volume)
    session.segment_slice("axial", region.low[2], region.box("axial", session.shape))


def _in_sagittal_slice(session: VolumeSession) -> None:
    region = region_from_source(Region((60, 20, 40), (61, 70, 80)), session.volume)
    session.segment_slice("sagittal", region.low[0], region.box("sagittal", session.shape))


def _in_region(session: VolumeSession) -> None:
    session.segment_region(region_from_source(Region((30, 40, 56), (70, 80, 64)), session.volume))


def _by_points(session: VolumeSession) -> None:
    clicks = []
    for voxel, inside in (((50, 60, 60), True), ((20, 60, 60), False)):
        region = region_from_source(Region(voxel, tuple(index + 1 for index in voxel)), session.volume)
        x0, y0, x1, y1 = region.box("axial", session.shape)
        clicks.append(Point((x0 + x1) / 2, (y0 + y1) / 2, inside))
    session.segment_slice("axial", region.low[2], None, clicks)


def _propagated(session: VolumeSession) -> None:
    boxes = {}
    for k in (58, 62):
        region = region_from_source(Region((30, 40, k), (70, 80, k + 1)), session.volume)
        boxes[region.low[2]] = region.box("axial", session.shape)
    session.propagate("axial", boxes, limits=range(min(boxes) - 2, max(boxes) + 3))


@pytest.mark.parametrize(
    ("params", "in_python"),
    [
        ({"slice_axis": 2, "slice": 60, "box": [30, 40, 60, 70, 80, 61]}, _in_slice),
        ({"slice_axis": 0, "slice": 60, "box": [60, 20, 40, 61, 70, 80]}, _in_sagittal_slice),
        ({"slice_axis": 2, "box": [30, 40, 56, 70, 80, 64]}, _in_region),
        ({"slice_axis": 2, "slice": 60, "foreground": [[50, 60, 60]], "background": [[20, 60, 60]]}, _by_points),
        ({"slice_axis": 2, "boxes": [[30, 40, 58, 70, 80, 59], [30, 40, 62, 70, 80, 63]], "reach": 2}, _propagated),
    ],
    ids=["box in a slice", "box in a sagittal slice", "3D box", "points", "propagation"],
)
def test_a_mask_of_a_real_ct_over_http_is_that_of_the_same_call_in_python(server, torso, params, in_python):
    found = server.mask("ball", {**params, "preset": "ct_abdomen"}, "torso")
    in_python(torso)
    expected = torso.mask(1)
    torso.remove(1)
    assert expected.any()
    assert (found == expected).all()


def test_the_mask_has_the_grid_of_its_image_or_the_part_that_is_asked_for(server, ball):
    ball.segment_slice("axial", 6, (4, 9, 21, 22))
    expected = ball.mask(1)
    region, _ = ball.crop(1)
    image = nib.load(server.studies / "ball_0.nii.gz")
    for crop in (False, True):
        params = {**BALL, "result_extension": ".nii.gz", "result_crop": crop}
        content = server.infer("ball", params, "ball_0", output="image").content
        answer = nib.Nifti1Image.from_bytes(gzip.decompress(content))
        low, high = (region.low, region.high) if crop else ((0, 0, 0), image.shape)
        assert answer.shape == tuple(np.subtract(high, low))
        assert np.allclose(answer.affine @ (0, 0, 0, 1), image.affine @ (*low, 1))
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        assert (np.asarray(answer.dataobj) == expected[part]).all()


def test_an_image_is_segmented_by_its_name_from_a_session_or_as_it_is_sent(server):
    expected = server.mask("ball", BALL, "ball_0")
    assert expected.any()
    path = server.studies / "ball_0.nii.gz"
    with open(path, "rb") as file:
        session = server.ask("PUT", "/session/", files={"files": ("image.nii.gz", file)}).json()["session_id"]
    assert (server.mask("ball", BALL, "", session_id=session) == expected).all()
    params = {"params": json.dumps({**BALL, "result_extension": ".nii.gz"})}
    with open(path, "rb") as file:
        reply = server.ask("POST", "/infer/ball?output=image", data=params, files={"file": ("a.nii.gz", file)})
    found = nib.Nifti1Image.from_bytes(gzip.decompress(reply.content))
    assert (np.asarray(found.dataobj) == expected).all()


def test_a_dicom_series_in_a_session_is_segmented_on_its_grid(server, shelf: AdapterShelf, tmp_path):
    image = np.asarray(nib.load(server.studies / "ball_0.nii.gz").dataobj)
    save_series(tmp_path / "series", image.transpose(2, 1, 0), 0)
    files = [("files", (path.name, path.read_bytes())) for path in sorted((tmp_path / "series").iterdir())]
    reply = server.ask("PUT", "/session/", files=files)
    assert reply.status_code == 200, reply.text
    found = server.mask("ball", BALL, "", session_id=reply.json()["session_id"])
    with VolumeSession(tmp_path / "series", shelf.load(server.adapters / "ball"), look_ahead=False) as session:
        session.segment_slice("axial", 6, (4, 9, 21, 22))
        assert session.mask(1).any()
        assert (found == session.mask(1)).all()


def test_slicers_own_module_gets_masks_for_its_roi_and_points(server, tmp_path):
    client = _client(server, tmp_path)
    assert client.info()["name"] == "COBOT"
    session = client.create_session(str(server.studies / "ball_0.nii.gz"))["session_id"]
    # what the module sends of a 3D ROI whose ends are swapped, and of the slice, an offset in millimetres
    sent = {"label": "ball", "foreground": [], "background": [], "roi": [21, 4, 22, 9, 8, 4], "slice": 260}
    sent |= {"result_extension": ".nrrd", "result_dtype": "uint8"}
    file, params = client.infer("ball_slices", "ball_0", dict(sent), session_id=session)
    assert params["label_names"] == {"ball": 1}
    assert (_read(file) == server.mask("ball", BALL, "ball_0")).all()
    del sent["slice"]
    file, _ = client.infer("ball", "ball_0", dict(sent), session_id=session)
    assert (_read(file) == server.mask("ball", {"box": [4, 9, 4, 21, 22, 8]}, "ball_0")).all()
    points = {"foreground": [[12, 15, 6], [12, 15, 4]], "background": [[2, 2, 6]], "slice": 6}
    file, _ = client.infer("ball_slices", "ball_0", {**sent, **points, "roi": []}, session_id=session)
    expected = {"slice": 6, "foreground": [[12, 15, 6]], "background": [[2, 2, 6]]}
    assert (_read(file) == server.mask("ball", expected, "ball_0")).all()


def _client(server, folder: Path):
    """The client that the module of MONAI Label in 3D Slicer uses."""
    client = pytest.importorskip("monailabel.client", reason="MONAI Label's client needs Python before 3.13")
    return client.MONAILabelClient(server.address, str(folder), "user-xyz")


def _read(file: str) -> np.ndarray:
    """(I, J, K) bool."""
    return sitk.GetArrayFromImage(sitk.ReadImage(file)).T > 0


def test_ohif_gets_an_uncompressed_nrrd_of_the_whole_grid_for_its_points(server, tmp_path):
    sent = {"foreground": [[12, 15, 6]], "background": [], "result_extension": ".nrrd", "result_dtype": "uint8"}
    sent |= {"result_compress": False, "restore_label_idx": False}
    form = {"params": (None, json.dumps(sent))}  # a form of the browser's
    reply = server.ask("POST", "/infer/ball_slices?image=ball_0&output=image", files=form)
    assert reply.status_code == 200, reply.text
    header, _, values = reply.content.partition(b"\n\n")
    assert b"encoding: raw" in header
    assert len(values) == 30 * 28 * 12
    (tmp_path / "answer.nrrd").write_bytes(reply.content)
    expected = server.mask("ball", {"slice": 6, "foreground": [[12, 15, 6]]}, "ball_0")
    assert (_read(str(tmp_path / "answer.nrrd")) == expected).all()


def test_cvat_gets_a_picture_for_a_picture(server, tmp_path):
    from PIL import Image

    pixels = np.full((40, 60), 30, np.uint8)
    pixels[10:30, 15:45] = 200
    Image.fromarray(pixels).save(tmp_path / "frame.png")
    sent = {"output": "mask", "foreground": [], "background": [], "roi": [13, 8, 47, 32]}
    file, _ = _client(server, tmp_path).infer("vit_mini", "", sent, file=str(tmp_path / "frame.png"))
    assert file.endswith(".png")
    mask = np.asarray(Image.open(file)) > 0
    assert mask.shape == pixels.shape
    assert mask[15:25, 20:40].mean() > 0.5
    assert not mask[:4].any()


def test_nothing_found_is_an_empty_mask_and_where_a_part_was_asked_for_no_image(server):
    assert not server.mask("blind", BALL, "ball_0").any()
    reply = server.infer("blind", {**BALL, "result_crop": True}, "ball_0", output="all")
    assert (reply.status_code, reply.json()["voxels"]) == (200, 0)
    reply = server.infer("blind", {**BALL, "result_crop": True}, "ball_0", output="image")
    assert (reply.status_code, reply.content) == (204, b"")


def test_embeddings_are_kept_in_the_folder_that_is_named_for_them(server):
    assert server.mask("ball", BALL, "ball_0").any()
    kept = list((server.studies.parent / "cache").rglob("*.safetensors"))
    assert kept
    changed = {path: path.stat().st_mtime_ns for path in kept}
    assert server.mask("ball", BALL, "ball_0").any()
    assert {path: path.stat().st_mtime_ns for path in kept} == changed


def test_images_of_the_studies_are_checked_and_fetched_as_the_clients_do(server):
    content = (server.studies / "ball_1.nii.gz").read_bytes()
    for image, status in (("ball_1", 200), ("nowhere", 404)):
        assert server.ask("HEAD", "/datastore/image", params={"image": image}).status_code == status
    assert server.ask("GET", "/datastore/image?image=ball_1").content == content
    for page in ("/", "/docs", "/openapi.json", "/ohif/", "/logs/"):
        assert server.ask("GET", page).status_code == 200, page


def test_a_session_is_told_of_and_removed_by_its_id_alone(server):
    with open(server.studies / "ball_0.nii.gz", "rb") as file:
        session = server.ask("PUT", "/session/", files={"files": ("image.nii.gz", file)}).json()["session_id"]
    assert server.ask("GET", f"/session/{session}").json()["name"] == session
    assert server.ask("DELETE", f"/session/{session}").status_code == 200
    assert server.infer("ball", BALL, session_id=session).status_code == 404
    assert server.ask("DELETE", f"/session/{session}").status_code == 404


def test_choosing_what_to_label_next_ends_when_its_client_is_gone(server):
    import requests

    with pytest.raises(requests.exceptions.ReadTimeout):  # three slices of each image take seconds with this model
        requests.post(f"{server.address}/activelearning/uncertainty", json={"model": "blind"}, timeout=0.3)
    end = time.monotonic() + 30
    while "Choosing what to label next ends" not in server.log.read_text(encoding="utf-8"):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_clients_at_once_get_the_mask_that_each_asked_for(server):
    asked = [
        (model, {**BALL, "slice": k, "box": [4 + x, 9, k, 21 + x, 22, k + 1]}, image)
        for model in ("ball", "other")
        for k, x, image in ((4, 0, "ball_0"), (6, 3, "ball_1"), (7, 5, "ball_0"))
    ]
    alone = [server.mask(*request) for request in asked]
    assert len({mask.tobytes() for mask in alone}) == len(asked)
    wrong = []

    def client(order: list[int]) -> None:
        wrong.extend(n for n in order if not (server.mask(*asked[n]) == alone[n]).all())

    orders = [[n, *range(n), *range(n + 1, len(asked))] for n in range(3)]
    threads = [threading.Thread(target=client, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_server_answers_while_it_segments(server, shared_data):
    busy = threading.Thread(
        target=server.infer, args=("vit_mini", {"box": [2, 2, 0, 120, 99, 60], "preset": "ct_lung"}, "torso")
    )
    busy.start()
    time.sleep(0.3)
    answers = 0
    while busy.is_alive() and answers < 5:
        assert server.ask("GET", "/info/").status_code == 200
        answers += busy.is_alive()
    busy.join()
    assert answers == 5
    end = time.monotonic() + 20
    while time.monotonic() < end and server.ask("GET", "/info/").status_code != 200:
        time.sleep(0.1)


def test_a_client_that_goes_away_stops_its_inference(server, shared_data):
    import requests

    params = {"box": [1, 1, 0, 121, 100, 60], "preset": "window:-900,900"}
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(f"{server.address}/infer/vit_mini?image=torso", data={"params": json.dumps(params)}, timeout=0.5)
    begun = time.monotonic()
    after = server.infer("vit_mini", {**params, "box": [1, 1, 0, 121, 100, 1]}, "torso")  # waits for the session
    waited = time.monotonic() - begun
    assert after.status_code == 200
    begun = time.monotonic()
    assert server.infer("vit_mini", params, "torso").status_code == 200
    assert waited < time.monotonic() - begun
