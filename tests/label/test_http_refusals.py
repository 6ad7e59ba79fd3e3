"""What the real server does not do, and says why."""

import io
import json
import shutil
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from running_server import ALLOWED

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
        ("ball", {**BOX, "preset": 3}, {"image": "ball_0"}, 422, "preset is 3; the name of an intensity preset"),
        ("ball", {**BOX, "preset": ["mr"]}, {"image": "ball_0"}, 422, "preset is ['mr']"),
        ("ball", {**BOX, "preset": {"a": 1}}, {"image": "ball_0"}, 422, "the name of an intensity preset"),
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
    assert server.ask("POST", "/batch/infer/ball", json={"images": [inside]}).status_code == 403


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mha", "ObjectType = Image\nNDims = 3\nDimSize = 28 28 12\nElementType = MET_SHORT\nElementDataFile = {}\n"),
        ("b.mha", "ObjectType = Image\nNDims = 3\nDimSize = 28 28 12\nElementType = MET_SHORT\nElementDataFile: {}\n"),
        ("a.mhd", "ObjectType = Image\nNDims = 3\nDimSize = 28 28 12\nElementType = MET_SHORT\nElementDataFile={}\n"),
        ("a.nrrd", "NRRD0004\ntype: short\ndimension: 3\nsizes: 28 28 12\nencoding: raw\ndata file: {}\n\n"),
        ("a.bin", "NRRD0004\ntype: short\ndimension: 3\nsizes: 28 28 12\nencoding: raw\nDatafile: {}\n\n"),
    ],
)
def test_an_image_that_is_sent_does_not_name_a_file_of_the_server(server, name, header):
    content = header.format(server.studies / "ball_0.nii.gz").encode()
    asked = [("PUT", "/datastore/label", {"image": "ball_0"}, "label")]
    if name != "a.bin":
        asked += [("PUT", "/session/", {}, "files"), ("PUT", "/datastore/image", {}, "file")]
    for method, path, params, field in asked:
        reply = server.ask(method, path, params=params, files={field: (name, content)})
        assert reply.status_code == 422, path
        assert "voxels lie in another file" in reply.json()["detail"]


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
    other = {".cobot", "cache"}
    return {str(path) for path in folder.rglob("*") if not other & {*path.parts} and path.suffix != ".log"}


def test_archives_names_that_lead_elsewhere_and_files_that_are_no_image_make_no_session(server):
    with open(server.studies / "ball_0.nii.gz", "rb") as file:
        assert server.ask("PUT", "/session/?uncompress=true", files={"files": ("a.zip", file)}).status_code == 422
        assert server.ask("PUT", "/session/", files={"files": ("..", file)}).status_code == 422
        assert server.ask("PUT", "/session/", files={"files": ("a.py", file)}).status_code == 422
    for session in ("../../studies", "..", "/etc", "8d0c2f6e"):
        assert server.infer("ball", BOX, session_id=session).status_code == 404


def test_models_are_neither_uploaded_nor_deleted(server):
    files = {"file": ("model.pt", b"cos\nsystem\n(S'true'\ntR.")}
    assert server.ask("PUT", "/model/ball", files=files).status_code == 403
    assert server.ask("DELETE", "/model/ball").status_code == 403
    assert server.ask("GET", "/model/ball").status_code == 403


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
        ("vit_mini", {"name": ""}, 422, "cannot be the name"),
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


def test_the_server_listens_on_this_computer_alone(server):
    import psutil

    listening = [of for of in psutil.Process(server.process.pid).net_connections() if of.status == "LISTEN"]
    assert {of.laddr.ip for of in listening} == {"127.0.0.1"}


# --- what MONAI Label would run


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/scoring/dice"),
        ("POST", "/scoring/"),
        ("GET", "/scoring/"),
        ("DELETE", "/scoring/"),
        ("POST", "/batch/infer/ball"),
        ("DELETE", "/batch/infer"),
        ("POST", "/infer/wsi/ball"),
        ("POST", "/infer/wsi_v2/ball"),
        ("GET", "/model/ball"),
        ("GET", "/model/info/ball"),
        ("PUT", "/model/ball"),
        ("POST", "/reload"),
    ],
)
def test_endpoints_of_monai_label_that_do_not_belong_here_are_refused_with_the_reason(server, method, path):
    reply = server.ask(method, path, params={"image": "ball_0"}, json={"bundle_path": str(server.studies)})
    assert reply.status_code == 403, reply.text
    assert reply.json()["detail"].endswith(".")


def test_what_is_not_listed_is_not_there(server):
    for method, path in (("GET", "/logs/gpu"), ("GET", "/auth/"), ("GET", "/proxy/dicom/wado/studies"), ("GET", "/x")):
        assert server.ask(method, path).status_code == 404, path
    assert server.ask("POST", "/proxy/dicom/instances/1", data=b"").status_code == 422
    assert server.ask("PATCH", "/info/").status_code == 405
    for path in ("..%5C..%5Cmain.py", "C:%5Cmain.py"):
        assert server.ask("GET", f"/ohif/{path}").status_code == 404, path
    assert server.ask("GET", "/ohif/..%2F..%2F..%2Fmain.py").content == server.ask("GET", "/ohif/").content


def test_files_of_a_session_are_those_of_a_dicom_series_under_names_of_the_server(server):
    program = ("files", ("sitecustomize.py", b"import os; os.system('true')\n"))
    with open(server.studies / "ball_0.nii.gz", "rb") as file:
        reply = server.ask("PUT", "/session/", files=[("files", ("a.nii.gz", file.read())), program])
    assert reply.status_code == 422
    assert "'a.nii.gz' is no DICOM file" in reply.json()["detail"]
    begins_as_dicom = b"#" * 128 + b"DICM\nimport os\n"
    files = [("files", (name, begins_as_dicom)) for name in ("sitecustomize.py", "usercustomize.py")]
    session = server.ask("PUT", "/session/", files=files).json()
    kept = Path(session["session_info"]["image"])
    assert sorted(path.name for path in kept.iterdir()) == ["00000.dcm", "00001.dcm"]
    assert server.infer("ball", BOX, session_id=session["session_id"]).status_code == 422


# --- who may ask


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_web_pages_of_other_addresses_change_and_read_nothing(server, two_labels, origin):
    headers = {"Origin": origin}
    stored = server.ask("GET", "/datastore/?output=all").json()
    sent = json.dumps({**BOX, "save_label": True, "label_tag": "final"})
    replies = [
        server.ask("POST", "/infer/ball?image=ball_0", data={"params": sent}, headers=headers),
        server.ask("POST", "/train/ball", headers=headers),
        server.ask("POST", "/activelearning/random", headers=headers),
        server.ask("DELETE", "/datastore/label?id=ball_0&tag=final", headers=headers),
        server.ask("OPTIONS", "/datastore/label", headers={**headers, "Access-Control-Request-Method": "PUT"}),
        server.ask("GET", "/info/", headers=headers),
    ]
    for reply in replies:
        assert reply.status_code == 403
        assert "may not use this server" in reply.json()["detail"]
        assert "access-control-allow-origin" not in reply.headers
    assert server.ask("GET", "/datastore/?output=all").json() == stored
    assert server.ask("GET", "/train/?check_if_running=true").status_code == 404


def test_pages_of_the_server_itself_and_those_that_are_named_use_it(server):
    for origin in (server.address, server.address.upper()):
        reply = server.ask("POST", "/activelearning/random", headers={"Origin": origin})
        assert reply.status_code == 200, reply.text
    reply = server.ask("GET", "/info/", headers={"Origin": ALLOWED})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, ALLOWED)
    asked = {"Origin": ALLOWED, "Access-Control-Request-Method": "PUT"}
    assert server.ask("OPTIONS", "/datastore/label", headers=asked).status_code == 200


def test_a_name_that_a_page_elsewhere_gives_to_this_computer_is_not_answered(server):
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "169.254.1.1", "", "["):
        reply = server.ask("GET", "/info/", headers={"Host": host})
        assert reply.status_code in (400, 403), host  # a Host that is none does not reach the application
    detail = server.ask("GET", "/info/", headers={"Host": "evil.example"}).json()["detail"]
    assert "'evil.example'" in detail
    for host in (f"localhost:{server.port}", "127.0.0.1", f"[::1]:{server.port}", "ohif.example:8000"):
        assert server.ask("GET", "/info/", headers={"Host": host}).status_code == 200, host


# --- what is left behind


def test_no_image_or_label_of_a_client_is_left_where_it_came_in(server):
    content = (server.studies / "ball_0.nii.gz").read_bytes()
    image, half = {"file": ("a.nii.gz", content)}, {"file": ("a.nii.gz", content[:2000])}
    label, box = {"label": ("a.nii.gz", content)}, {"params": json.dumps(BOX)}
    tagged = {"params": json.dumps({**BOX, "save_label": True, "label_tag": "../x"})}
    asked = [
        (200, "POST", "/infer/ball?output=image", box, image),
        (422, "POST", "/infer/ball", box, half),
        (422, "POST", "/infer/ball", {"params": "{}"}, image),
        (404, "POST", "/infer/nothing", box, image),
        (422, "POST", "/infer/ball?image=ball_0", tagged, None),
        (422, "PUT", "/datastore/image?image=half", {}, half),
        (422, "PUT", "/datastore/image?image=.hidden", {}, image),
        (404, "PUT", "/datastore/label?image=nowhere", {}, label),
        (422, "PUT", "/datastore/label?image=ball_0&tag=../x", {}, label),
        (422, "PUT", "/session/", {}, [("files", ("a.nii.gz", content)), ("files", ("b.nii.gz", content))]),
        (200, "PUT", "/session/", {}, {"files": ("a.nii.gz", content)}),
    ]
    for status, method, path, data, files in asked:
        reply = server.ask(method, path, data=data, files=files)
        assert reply.status_code == status, (path, reply.text)
        end = time.monotonic() + 10
        while server.received() and time.monotonic() < end:  # what was answered goes right after the reply
            time.sleep(0.05)
        assert server.received() == [], path


def test_an_archive_of_the_labelled_images_is_not_left_behind_either(server, two_labels):
    archive = zipfile.ZipFile(io.BytesIO(server.ask("GET", "/datastore/dataset").content))
    assert sum(name.endswith("ball_1.nii.gz") for name in archive.namelist()) == 2  # the image and its label
    end = time.monotonic() + 10
    while server.received() and time.monotonic() < end:
        time.sleep(0.05)
    assert server.received() == []


def test_an_error_that_nobody_foresaw_is_answered_with_its_reason(server):
    damaged = server.studies / ".cobot" / "sessions" / "0d"
    damaged.mkdir(parents=True)
    (damaged / "meta.info").write_text("3", encoding="utf-8")
    reply = server.ask("GET", "/session/0d")
    shutil.rmtree(damaged)
    assert reply.status_code == 500
    assert "the server failed: AttributeError: 'int' object has no attribute" in reply.json()["detail"]
