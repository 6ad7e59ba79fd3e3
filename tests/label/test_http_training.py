"""From labels to a better adapter on the real server, also where it is killed meanwhile."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from running_server import SIZE, free_port, start_server

from monai_cobot.inferers import AdapterShelf, VolumeSession
from monai_cobot.label.server import APP
from monai_cobot.label.uncertainty import image_uncertainty

BOX = {"slice": 6, "box": [4, 9, 6, 21, 22, 7]}
OPTIONS = {"epochs": 8, "min_foreground": 10, "batch_size": 4, "learning_rate": 0.001}


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
    assert server.ask("DELETE", "/train/").json()["status"] == "STOPPED"
    assert server.training()["status"] == "STOPPED"
    assert server.ask("DELETE", "/train/").status_code == 200  # nothing is left to stop
    assert (server.mask("ball", BOX, "ball_2") == before).all()

    assert server.ask("POST", "/train/ball", json=OPTIONS).json()["goes_on"]
    task = server.wait_for_training()
    said = "\n".join(task["details"])
    assert task["status"] == "DONE", said
    assert "resumed after epoch" in said
    assert "ball: version 2 is in use now, validation DSC" in said
    after = server.mask("ball", BOX, "ball_2")
    assert (after != before).any()
    assert (after == in_python(server, shelf, "ball")).all()
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

    # started again as MONAI Label says, with a copy of the app's folder
    app = tmp_path / "app"
    app.mkdir()
    (app / "main.py").write_bytes((APP / "main.py").read_bytes())
    port = free_port()
    arguments = ["start_server", "--app", str(app), "--studies", str(studies), "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--conf", "image_size", str(SIZE)]
    again = start_server([*_monai_label(), *arguments], studies, port)
    try:
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


def _monai_label() -> list[str]:
    """MONAI Label's own command; with pydicom 3 it does not start as it is."""
    import pydicom

    if int(pydicom.__version__.split(".")[0]) < 3:
        return [sys.executable, "-m", "monailabel.main"]
    program = (
        "import runpy; from monai_cobot.label.server import accept_pydicom_3; accept_pydicom_3(); "
        "runpy.run_module('monailabel.main', run_name='__main__')"
    )
    return [sys.executable, "-c", program]
