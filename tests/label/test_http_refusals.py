"""What the real server does not do, and says why."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

BOX = {"slice": 6, "box": [4, 9, 6, 21, 22, 7]}


@pytest.mark.parametrize(
    ("model", "params", "query", "status", "reason"),
    [
        ("nothing", BOX, {"image": "ball_0"}, 404, "there is no model 'nothing'; there are ball"),
        ("ball", BOX, {"image": "nowhere"}, 404, "there is no image 'nowhere' in the studies"),
        ("ball", BOX, {}, 422, "there is no image"),
        ("ball", BOX, {"session_id": "8d0c2f6e"}, 404, "there is no session 8d0c2f6e"),
        ("ball", {}, {"image": "ball_0"}, 422, "neither a box"),
        ("ball", {"slice": 40, "foreground": [[1, 1, 1]]}, {"image": "ball_0"}, 422, "slice 40 is outside the image"),
        ("ball", {"box": [4, 9, 6, 21]}, {"image": "ball_0"}, 422, "say which, as slice"),
        ("ball", {**BOX, "preset": "ct_knee"}, {"image": "ball_0"}, 422, "unknown intensity preset"),
        ("ball", {**BOX, "result_extension": ".exe"}, {"image": "ball_0"}, 422, "masks are written as"),
        ("ball", BOX, {"image": "ball_0", "output": "dicom_seg"}, 422, "DICOM SEG"),
        ("ball", BOX, {"image": "ball_0", "output": "poem"}, 422, "image"),
        ("ball", [1], {"image": "ball_0"}, 422, "a JSON object is expected"),
    ],
)
def test_a_request_that_cannot_be_done_is_refused_with_the_reason(server, model, params, query, status, reason):
    reply = server.ask("POST", f"/infer/{model}", params=query, data={"params": json.dumps(params)})
    assert (reply.status_code, "Internal Server Error" in reply.text) == (status, False)
    assert reason in json.dumps(reply.json()["detail"])


def test_params_that_are_no_json_are_refused(server):
    reply = server.ask("POST", "/infer/ball?image=ball_0", data={"params": "{"})
    assert reply.status_code == 422
    assert "not valid JSON" in reply.json()["detail"]


def test_a_damaged_image_is_refused_and_the_server_goes_on(server):
    content = (server.studies / "ball_0.nii.gz").read_bytes()[:2000]
    files = {"file": ("damaged.nii.gz", content)}
    reply = server.ask("POST", "/infer/ball", data={"params": json.dumps(BOX)}, files=files)
    assert reply.status_code == 422
    assert "cannot be read" in reply.json()["detail"]
    assert server.mask("ball", BOX, "ball_0").any()


@pytest.mark.parametrize("named", ["truth/../ball_0.nii.gz", "/etc/hostname", "../studies/ball_0.nii.gz"])
def test_images_outside_the_studies_are_not_read(server, named):
    inside = str(server.studies / "truth" / "ball_0.nii.gz")
    for image in (named, inside):
        assert server.infer("ball", BOX, image).status_code == 404
        reply = server.infer("ball", {**BOX, "image": image}, "ball_0")
        assert reply.status_code == 422
        assert "in the address" in reply.json()["detail"]
    assert server.ask("POST", "/batch/infer/ball", json={"images": [inside]}).status_code == 422


@pytest.mark.parametrize("name", ["../escaped", "a/b", "..\\escaped", ".hidden", "x" * 300])
def test_nothing_is_written_outside_the_studies(server, name):
    before = _files(server.studies.parent)
    with open(server.studies / "ball_0.nii.gz", "rb") as file:
        image = server.ask("PUT", "/datastore/image", params={"image": name}, files={"file": ("a.nii.gz", file)})
    label = server.submit("ball_0", server.studies / "truth" / "ball_0.nii.gz", {"ball": 1}, tag=name)
    assert (image.status_code, label.status_code) == (422, 422), image.text + label.text
    assert "cannot be the name" in image.json()["detail"]
    assert _files(server.studies.parent) == before


def _files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if ".cobot" not in path.parts and path.suffix != ".log"}


def test_archives_names_that_lead_elsewhere_and_files_that_are_no_image_make_no_session(server):
    with open(server.studies / "ball_0.nii.gz", "rb") as file:
        assert server.ask("PUT", "/session/?uncompress=true", files={"files": ("a.zip", file)}).status_code == 422
        assert server.ask("PUT", "/session/", files={"files": ("..", file)}).status_code == 422
        assert server.ask("PUT", "/session/", files={"files": ("a.py", file)}).status_code == 422
    for session in ("../../studies", "..", "/etc"):
        assert server.infer("ball", BOX, session_id=session).status_code == 404


def test_models_are_neither_uploaded_nor_deleted(server):
    files = {"file": ("model.pt", b"cos\nsystem\n(S'true'\ntR.")}
    assert server.ask("PUT", "/model/ball", files=files).status_code == 403
    assert server.ask("DELETE", "/model/ball").status_code == 403
    assert server.ask("GET", "/model/ball").status_code == 404


def test_labels_that_are_none_of_their_image_are_refused(server, tmp_path):
    truth = server.studies / "truth" / "ball_0.nii.gz"
    assert server.submit("nowhere", truth, {"ball": 1}).status_code == 404
    label = nib.load(truth)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1], label.affine), tmp_path / "small.nii.gz")
    reply = server.submit("ball_0", tmp_path / "small.nii.gz", {"ball": 1})
    assert reply.status_code == 422
    assert "the mask has 29 x 28 x 12 voxels" in reply.json()["detail"]
    (tmp_path / "half.nii.gz").write_bytes(truth.read_bytes()[:100])
    assert server.submit("ball_0", tmp_path / "half.nii.gz", {"ball": 1}).status_code == 422


def test_another_image_does_not_take_the_place_of_one_that_is_there(server):
    before = (server.studies / "ball_0.nii.gz").read_bytes()
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32), np.eye(4))
    files = {"file": ("a.nii", image.to_bytes())}
    reply = server.ask("PUT", "/datastore/image?image=ball_0", files=files)
    assert reply.status_code == 409
    assert "choose another name" in reply.json()["detail"]
    files = {"file": ("a.nii.gz", before)}
    assert server.ask("PUT", "/datastore/image?image=ball_0", files=files).json() == {"image": "ball_0"}
    assert (server.studies / "ball_0.nii.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("model", "params", "status", "reason"),
    [
        ("nothing", {}, 404, "no model 'nothing' to train"),
        ("other", {"epoch": 3}, 422, "no option 'epoch'"),
        ("other", {"epochs": -3}, 422, "epochs is -3"),
        ("other", {"method": "ssf"}, 422, "has its own"),
        ("other", {"bundle_path": "/tmp"}, 422, "no option 'bundle_path'"),
        ("vit_mini", {"preset": "$1"}, 422, "a plain value"),
        ("vit_mini", {"name": "../new"}, 422, "cannot be the name"),
        ("vit_mini", {"name": "ball"}, 422, "ball exists already"),
    ],
)
def test_a_training_that_cannot_be_done_is_refused_with_the_reason(server, two_labels, model, params, status, reason):
    reply = server.ask("POST", f"/train/{model}", json=params)
    assert reply.status_code == status, reply.text
    assert reason in reply.json()["detail"]


@pytest.fixture(scope="module")
def two_labels(server) -> None:
    for number in range(2):
        reply = server.submit(f"ball_{number}", server.studies / "truth" / f"ball_{number}.nii.gz", {"ball": 1})
        assert reply.status_code == 200, reply.text


def test_what_is_not_there_is_not_found(server):
    assert server.ask("POST", "/activelearning/nothing", json={}).status_code == 404
    assert server.ask("POST", "/activelearning/uncertainty", json={"model": "nothing"}).status_code == 404
    assert server.ask("DELETE", "/datastore/image?id=nowhere").status_code == 404
    reply = server.ask("PUT", "/datastore/image/info?image=ball_0", data={"info": "{"})
    assert reply.status_code == 422


def test_the_server_listens_on_this_computer_alone_and_pages_elsewhere_do_not_reach_it(server):
    import psutil

    listening = [of for of in psutil.Process(server.process.pid).net_connections() if of.status == "LISTEN"]
    assert {of.laddr.ip for of in listening} == {"127.0.0.1"}
    allowed = server.ask("GET", "/info/", headers={"Origin": "http://elsewhere.example"}).headers
    assert "access-control-allow-origin" not in allowed
