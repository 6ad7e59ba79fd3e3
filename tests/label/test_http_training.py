"""From labels to a better adapter on the real server, also where it is killed meanwhile."""

import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest
from running_server import SIZE, free_port, start_server

from monai_cobot.inferers import AdapterShelf, VolumeSession
from monai_cobot.label.server import APP
from monai_cobot.label.uncertainty import image_uncertainty

BOX = {"slice": 6, "box": [4, 9, 6, 21, 22, 7]}
OPTIONS = {"epochs": 5, "min_foreground": 10, "batch_size": 4, "learning_rate": 0.001}


def submit_two(server) -> None:
    for number in range(2):
        reply = server.submit(f"ball_{number}", server.studies / "truth" / f"ball_{number}.nii.gz", {"ball": 1})
        assert reply.status_code == 200, reply.text


def in_python(server, shelf: AdapterShelf, adapter: str) -> np.ndarray:
    with VolumeSession(server.studies / "ball_2.nii.gz", shelf.load(server.adapters / adapter)) as session:
        session.segment_slice("axial", 6, (4, 9, 21, 22))
        return session.mask(1)


def _in_epoch(number: int):
    return lambda task: any(line.startswith(f"epoch {number}/") for line in task["details"])


def test_an_adapter_is_trained_from_the_labels_stopped_gone_on_with_used_at_once_and_rolled_back(server, shelf):
    submit_two(server)
    before = server.mask("ball", BOX, "ball_2")
    task = server.ask("POST", "/train/ball", json=OPTIONS).json()
    assert task["status"] in ("SUBMITTED", "RUNNING")
    assert not task["goes_on"]
    assert server.ask("POST", "/train/other", json=OPTIONS).status_code == 429
    running = server.wait_for_training(until=_in_epoch(2))
    assert running["status"] == "RUNNING", running
    assert server.ask("GET", "/train/?check_if_running=true").json()["id"] == task["id"]
    assert server.ask("POST", "/train/", json={"ball": OPTIONS}).status_code == 429  # as OHIF asks
    waiting = server.ask("POST", "/train/ball?enqueue=true", json={**OPTIONS, "epochs": 1}).json()
    assert (waiting["status"], waiting["goes_on"]) == ("SUBMITTED", False)
    new = {**OPTIONS, "method": "lora"}
    others = [server.ask("POST", "/train/vit_mini?enqueue=true", json=new).json() for _ in range(2)]
    assert [of["adapter"] for of in others] == ["ball_2", "ball_3"]
    stopped = server.ask("DELETE", "/train/").json()
    assert (stopped["id"], stopped["status"]) == (task["id"], "STOPPED")
    ours = {of["id"] for of in (task, waiting, *others)}
    known = {of["id"]: of["status"] for of in server.ask("GET", "/train/?all=true").json()}
    assert {known[id] for id in ours} == {"STOPPED"}
    assert server.ask("GET", "/train/?check_if_running=true").status_code == 404
    assert server.ask("DELETE", "/train/").json() is None  # nothing is left to stop
    assert (server.mask("ball", BOX, "ball_2") == before).all()

    assert server.ask("POST", "/train/ball", json=OPTIONS).json()["goes_on"]  # what waited has not taken its place
    task = server.wait_for_training()
    said = "\n".join(task["details"])
    assert task["status"] == "DONE", said
    assert "resumed after epoch" in said
    assert "ball: version 2 is in use now, validation DSC" in said
    after = server.mask("ball", BOX, "ball_2")
    assert (after != before).any()
    assert (after == in_python(server, shelf, "ball")).all()
    epochs = [line for line in task["details"] if line.startswith("epoch ")]
    log = server.ask("GET", "/logs/?lines=3000&text=true").text
    assert epochs
    assert all(line in log for line in epochs)
    stats = server.ask("GET", "/info/").json()["train_stats"]["ball"]
    assert stats["versions"] == [1, 2]
    assert 0 < stats["best_metric"] < 1

    command = [sys.executable, "-m", "monai_cobot", "adapters", "rollback", str(server.adapters / "ball")]
    subprocess.run(command, check=True, capture_output=True)
    assert (server.mask("ball", BOX, "ball_2") == before).all()


def test_what_the_model_is_least_sure_of_is_labelled_next(server, shelf):
    submit_two(server)
    chosen = server.ask("POST", "/activelearning/uncertainty", json={"model": "vit_mini", "client_id": "me"}).json()
    unlabelled = {}
    for path in sorted(server.studies.glob("*.nii.gz")):
        if path.name not in ("ball_0.nii.gz", "ball_1.nii.gz"):
            with VolumeSession(path, shelf.base, look_ahead=False) as session:
                unlabelled[path.name.removesuffix(".nii.gz")] = image_uncertainty(session)
    assert chosen["id"] == max(unlabelled, key=unlabelled.__getitem__)
    assert chosen["uncertainty"] == pytest.approx(unlabelled[chosen["id"]], rel=1e-4)
    assert Path(chosen["path"]).is_file()
    assert server.ask("POST", "/activelearning/random", json={}).json()["id"] in unlabelled


def test_a_server_that_is_killed_while_it_trains_loses_no_label_and_goes_on(start, balls, shelf, tmp_path):
    studies = balls(tmp_path / "studies")
    server = start(studies)
    submit_two(server)
    new = {**OPTIONS, "name": "fresh", "method": "lora", "rank": 4, "decoder": "frozen", "orchestrate": True}
    # as OHIF asks for all models; the SAM without an adapter gets a new one
    task = server.ask("POST", "/train/", json={"vit_mini": new}).json()["vit_mini"]["result"]
    assert task["adapter"] == "fresh"
    running = server.wait_for_training(until=_in_epoch(2))
    assert running["status"] == "RUNNING", running
    trainers = [child.pid for child in psutil.Process(server.process.pid).children(recursive=True)]
    assert trainers
    server.kill()
    end = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in trainers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in trainers)

    left = studies / ".cobot" / "incoming" / "of a request"
    left.mkdir()
    (left / "image.nii.gz").write_bytes(b"a patient")

    # started again as MONAI Label says, with a copy of the app's folder
    app = tmp_path / "app"
    app.mkdir()
    (app / "main.py").write_bytes((APP / "main.py").read_bytes())
    port = free_port()
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    if int(version("pydicom").split(".")[0]) >= 3:
        command += ["--uvicorn_app", "monai_cobot.label.web:app"]
    command += ["--conf", "image_size", str(SIZE), "--conf", "precision", "float32"]  # as in this process
    again = start_server([*command, "--port", str(port)], studies, port)
    try:
        assert again.received() == []
        _is_for_this_computer_alone(again)
        stored = again.ask("GET", "/datastore/?output=all").json()["objects"]
        for number in range(2):
            label = again.ask("GET", "/datastore/label", params={"label": f"ball_{number}", "tag": "final"}).content
            assert label == (studies / "truth" / f"ball_{number}.nii.gz").read_bytes()
            assert stored[f"ball_{number}"]["labels"]["final"]["info"]["label_info"] == [{"name": "ball", "idx": 1}]
        assert again.infer("vit_mini", {}, "ball_2").status_code == 422
        assert again.ask("POST", "/train/vit_mini", json=new).json()["goes_on"]
        task = again.wait_for_training()
        said = "\n".join(task["details"])
        assert task["status"] == "DONE", said
        assert "resumed after epoch" in said
        assert again.ask("GET", "/info/").json()["models"]["fresh"]["labels"] == ["ball"]
        assert (again.mask("fresh", BOX, "ball_2") == in_python(again, shelf, "fresh")).all()
    finally:
        again.kill()


def _is_for_this_computer_alone(server) -> None:
    """Although MONAI Label's own command lets it listen on all addresses."""
    import requests

    listening = [of for of in psutil.Process(server.process.pid).net_connections() if of.status == "LISTEN"]
    assert {of.laddr.ip for of in listening} == {"0.0.0.0"}
    found = [of.address for known in psutil.net_if_addrs().values() for of in known if of.family == socket.AF_INET]
    for address in (address for address in found if not address.startswith("127.")):
        for host in (address, "127.0.0.1"):
            reply = requests.get(f"http://{address}:{server.port}/info/", headers={"Host": host}, timeout=60)
            assert reply.status_code == 403
            assert "--conf host ADDRESS" in reply.json()["detail"]


def test_slicers_own_module_adds_images_labels_them_and_trains(start, balls, tmp_path):
    client = pytest.importorskip("monailabel.client", reason="MONAI Label's client needs Python before 3.13")
    made = balls(tmp_path / "made")
    server = start(tmp_path / "studies")
    slicer = client.MONAILabelClient(server.address, str(tmp_path), "user-xyz")
    assert slicer.auth_enabled() is False
    for number in range(3):
        name = f"ball_{number}"
        assert slicer.upload_image(str(made / f"{name}.nii.gz"), name) == {"image": name}
        assert (server.studies / f"{name}.nii.gz").read_bytes() == (made / f"{name}.nii.gz").read_bytes()
    for _ in range(2):
        sample = slicer.next_sample("random", {})
        truth = str(made / "truth" / f"{sample['id']}.nii.gz")
        sent = {"label_info": [{"name": "ball", "idx": 1}]}
        assert slicer.save_label(sample["id"], truth, params=sent)["image"] == sample["id"]
        stored = slicer.datastore()["objects"][sample["id"]]["labels"]["final"]["info"]
        assert (stored["client_id"], stored["label_info"]) == ("user-xyz", sent["label_info"])
        assert Path(slicer.download_label(sample["id"], "final")).read_bytes() == Path(truth).read_bytes()
    assert slicer.next_sample("uncertainty", {})["id"] not in set(_labelled(server))
    assert slicer.train_start("vit_mini", {**OPTIONS, "epochs": 500, "method": "lora"})["adapter"] == "ball"
    assert slicer.train_status(check_if_running=True)
    assert slicer.train_stop()["status"] == "STOPPED"

    # OHIF sends labels as bare values, which mean something on a DICOM server alone
    files = {"label": ("label.bin", bytes(30 * 28 * 12)), "params": (None, "{}")}
    reply = server.ask("PUT", "/datastore/label?image=ball_0", files=files)
    assert (reply.status_code, "unknown format" in reply.json()["detail"]) == (422, True)
    assert server.ask("GET", "/train/?check_if_running=true").status_code == 404
    assert server.ask("POST", "/activelearning/random", json={}).json()["id"] not in _labelled(server)


def _labelled(server) -> list[str]:
    stored = server.ask("GET", "/datastore/?output=all").json()["objects"]
    return [name for name, of in stored.items() if "final" in of["labels"]]
