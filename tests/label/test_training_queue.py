"""The queue of trainings, with a program in the place of the training that says what it is told and waits."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="the server's packages are not installed (docs/server.md)")

import monai_cobot.label.training_queue as module
from monai_cobot.label.training import Orders
from monai_cobot.label.training_queue import TrainingQueue, TrainingsWaitError

PROGRAM = """
import json, pathlib, shutil, sys, time
folder = pathlib.Path(sys.argv[1])
orders = json.loads((folder / "orders.json").read_text())
print("trains", orders["options"]["epochs"], flush=True)
(folder / "output").mkdir(exist_ok=True)
while not (folder.parent / "go").exists():
    time.sleep(0.01)
assert (folder / "orders.json").exists() and (folder / "output").exists()
shutil.rmtree(folder)
"""


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def start(command, **options):
        assert command[:3] == [sys.executable, "-m", "monai_cobot.label.training"]
        return popen([sys.executable, "-c", PROGRAM, command[3]], **options)

    monkeypatch.setattr(module.subprocess, "Popen", start)


def order(folder: Path, name: str = "ball", epochs: int = 1):
    orders = Orders(adapter=str(folder / "adapters" / name), train_config="", options={"epochs": epochs}, labels=None)
    return lambda reserved: (folder / name, orders)


def ended(queue: TrainingQueue, number: int = -1) -> dict:
    return until(queue, lambda task: task["status"] not in ("SUBMITTED", "RUNNING"), number)


def until(queue: TrainingQueue, done, number: int = -1) -> dict:
    end = time.monotonic() + 60
    while not done(queue.tasks()[number]):
        assert time.monotonic() < end, queue.tasks()
        time.sleep(0.01)
    return queue.tasks()[number]


def test_trainings_are_told_while_the_labels_of_another_are_fetched(tmp_path):
    queue, fetching, go_on = TrainingQueue(), threading.Event(), threading.Event()

    def slow(reserved):
        fetching.set()
        go_on.wait(60)
        return order(tmp_path)(reserved)

    asking = threading.Thread(target=queue.submit, args=({}, slow))
    asking.start()
    assert fetching.wait(60)
    assert queue.tasks() == []
    assert queue.stop() is None
    go_on.set()
    asking.join(60)
    assert len(queue.tasks()) == 1
    (tmp_path / "go").touch()
    ended(queue)


def test_orders_for_the_same_adapter_wait_and_leave_the_one_that_trains_alone(tmp_path):
    queue = TrainingQueue()
    queue.submit({"model": "ball"}, order(tmp_path, epochs=1))
    until(queue, lambda task: task["details"])
    with pytest.raises(TrainingsWaitError, match="a training runs already"):
        queue.submit({}, order(tmp_path))
    for epochs in (2, 1):  # other orders, and equal ones
        queue.submit({}, order(tmp_path, epochs=epochs), enqueue=True)
    assert json.loads((tmp_path / "ball" / "orders.json").read_text(encoding="utf-8"))["options"] == {"epochs": 1}
    (tmp_path / "go").touch()
    ended(queue)
    assert [(task["status"], task["details"]) for task in queue.tasks()] == [
        ("DONE", [f"trains {epochs}"]) for epochs in (1, 2, 1)
    ]


def test_those_who_order_know_which_adapters_wait_to_be_trained(tmp_path):
    queue = TrainingQueue()
    seen = []
    for name in ("ball", "liver", "kidney"):

        def ordered(reserved, name=name):
            seen.append(sorted(reserved))
            return order(tmp_path, name)(reserved)

        queue.submit({}, ordered, enqueue=True)
    assert seen == [[], ["ball"], ["ball", "liver"]]
    queue.stop()
    assert [ended(queue, number)["status"] for number in range(3)] == ["STOPPED"] * 3


def test_a_training_that_cannot_be_started_fails_with_its_reason_and_the_next_one_runs(tmp_path, monkeypatch):
    queue = TrainingQueue()
    (tmp_path / "ball").write_bytes(b"a file in the place of the folder")
    queue.submit({}, order(tmp_path))
    task = ended(queue)
    assert task["status"] == "ERROR"
    assert task["end_ts"]
    assert "could not be run" in task["details"][-1]
    start = module.subprocess.Popen

    def no_process(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module.subprocess, "Popen", no_process)
    queue.submit({}, order(tmp_path, "liver"))
    assert "Cannot allocate memory" in ended(queue)["details"][-1]
    monkeypatch.setattr(module.subprocess, "Popen", start)
    (tmp_path / "go").touch()
    queue.submit({}, order(tmp_path, "liver"))
    assert ended(queue)["status"] == "DONE"


def test_a_stop_while_the_process_starts_is_a_stop(tmp_path, monkeypatch):
    queue = TrainingQueue()
    start, starting = module.subprocess.Popen, threading.Event()

    def slowly(*arguments, **options):
        starting.set()
        time.sleep(0.3)
        return start(*arguments, **options)

    monkeypatch.setattr(module.subprocess, "Popen", slowly)
    queue.submit({}, order(tmp_path))
    assert starting.wait(30)
    assert queue.stop()["status"] == "STOPPED"
    time.sleep(0.5)
    assert queue.tasks()[0]["status"] == "STOPPED"
    assert queue.submit({}, order(tmp_path))["goes_on"]
    (tmp_path / "go").touch()
    assert ended(queue)["status"] == "DONE"


def test_a_program_that_fails_is_told_with_what_it_said(tmp_path):
    queue = TrainingQueue()
    folder = tmp_path / "ball"
    queue.submit({}, order(tmp_path))
    until(queue, lambda task: task["details"])
    (folder / "orders.json").unlink()
    (tmp_path / "go").touch()
    task = ended(queue)
    assert task["status"] == "ERROR"
    assert any("AssertionError" in line for line in task["details"])
    assert queue.stop() is None
