"""Runs as they are done, in processes of their own."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from monai_cobot.study import Run, execution, run_study, write_report
from monai_cobot.study.execution import _process_of
from monai_cobot.study.plan import write_orders
from monai_cobot.study.records import Record, claimed, is_claimed, write_record
from monai_cobot.study.training import INTERRUPTED, run_process
from tests.study.conftest import LORA, LORA_COBOT


def test_a_study_does_every_run_once_and_a_run_that_fails_does_not_stop_the_others(content, plan_of, capsys):
    content["methods"] = {
        "SAM": {"method": "freeze", "orchestrate": False},
        "LoRA on no slice": LORA | {"min_foreground": 10_000},
        "LoRA + COBOT": LORA_COBOT,
    }
    content["options"] = content["options"] | {
        "slices_per_epoch": 8
    }  # what a step made of the weights is seen in the next
    plan = plan_of(content | {"seeds": [0, 1], "learning_rate": {"rates": [1e-3, 1e30]}})
    not_done = run_study(plan)
    reasons = set(not_done.values())
    assert len(not_done) == 4
    assert any("min_foreground" in reason for reason in reasons)
    assert any("its learning rate is not chosen" in reason for reason in reasons)
    good = [run for run in plan.runs if run.method in ("SAM", "LoRA + COBOT")]
    assert len(good) == 5
    assert all(plan.record(run) is not None for run in good)
    assert "5/9 phantom · LoRA + COBOT · seed 1: DSC" in capsys.readouterr().out

    record = plan.record(Run("phantom", "LoRA + COBOT", 1))
    assert record.settings["learning_rate"] == 1e-3  # training diverges at the other
    assert plan.record(Run("phantom", "LoRA + COBOT", 0, 1e30)).diverged
    assert [(case, label) for case, label, _ in record.scores] == [("phantom_006", "liver"), ("phantom_007", "liver")]
    assert record.encoder_parameters == 25024
    assert record.epochs == 1
    assert record.seconds > 0
    assert record.adapter_size > 1e6

    # a run is measured once
    scores = (plan.folder_of(Run("phantom", "LoRA + COBOT", 1)) / "scores.csv").read_text(encoding="utf-8")
    assert scores.startswith("case,label,dice_ellipse,dice_fine-tuned\n")

    files = write_report(plan, not_done)
    assert any(path.name == "relation_phantom_LoRA_+_COBOT.png" for path in files)
    written = [(plan.folder_of(run) / "result.json").stat().st_mtime_ns for run in good]
    again = plan_of(content | {"seeds": [0, 1], "learning_rate": {"rates": [1e-3, 1e30]}})
    assert len(run_study(again)) == 4
    assert [(plan.folder_of(run) / "result.json").stat().st_mtime_ns for run in good] == written


def test_a_study_of_classes_without_prompts_is_done_and_goes_on_where_a_further_rate_is_better(content, plan_of):
    content["options"] = content["options"] | {"head": "classes", "slices_per_epoch": 8}
    content["methods"] = {"VPT": {"method": "vpt", "method_options": {"prompts": 5}}}
    plan = plan_of(content | {"learning_rate": {"rates": [1e-9]}})
    assert run_study(plan) == {}
    (final,) = [run for run in plan.runs if run.learning_rate is None]
    record = plan.record(final)
    assert record.settings["learning_rate"] == 1e-9
    assert {label for _, label, _ in record.scores} == {"liver"}
    assert record.encoder_parameters == 8 * 5 * 192

    better = Run("phantom", "VPT", 0, 1e-3)
    plan = plan_of(content | {"learning_rate": {"rates": [1e-9, 1e-3]}})
    write_record(plan.folder_of(better), Record(plan.settings(better), [("a", "liver", 1.0)]))
    assert plan.record(final) is None
    assert run_study(plan) == {}
    assert plan.record(final).settings["learning_rate"] == 1e-3


def test_a_run_that_was_killed_goes_on_from_its_last_epoch(content, plan_of):
    plan, run = one_run(content, plan_of, epochs=4)
    folder = plan.folder_of(run)
    write_orders(plan, run)
    process = _process_of(folder)
    process.start()
    wait_for(lambda: (folder / "checkpoint.pt").exists())
    assert is_claimed(folder)
    process.kill()
    process.join()
    assert not is_claimed(folder)
    assert run_study(plan) == {}
    assert "resumed after epoch" in (folder / "log.txt").read_text(encoding="utf-8")
    assert plan.record(run).epochs == 4


def test_a_run_that_the_system_kills_is_tried_once_more_and_then_passed_over(content, plan_of, monkeypatch):
    plan, run = one_run(content, plan_of, epochs=4)
    folder = plan.folder_of(run)
    started = []
    is_killed = iter([True, True, True, False])

    def kill(process):
        wait_for(lambda: (folder / "checkpoint.pt").exists() and process.is_alive())
        process.kill()

    def killed_later(folder):
        started.append(_process_of(folder))
        if next(is_killed):
            threading.Thread(target=kill, args=(started[-1],)).start()
        return started[-1]

    monkeypatch.setattr(execution, "_process_of", killed_later)
    assert "was ended by SIGKILL (the system does so where memory runs out" in run_study(plan)[run]
    assert len(started) == 2
    assert run_study(plan) == {}
    assert len(started) == 4
    assert plan.record(run).epochs == 4


def test_a_run_is_interrupted_also_where_ctrl_c_was_ignored_when_it_began(content, plan_of):
    plan, run = one_run(content, plan_of, epochs=1000)
    folder = plan.folder_of(run)
    write_orders(plan, run)
    process = multiprocessing.get_context("spawn").Process(target=run_process, args=(folder,))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's "&" does, and every process after it inherits
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for((folder / "checkpoint.pt").exists)
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=120)
    assert process.exitcode == INTERRUPTED


def test_nothing_is_done_beside_runs_with_other_weights_than_those_that_are_there(content, plan_of):
    content["methods"] = {"SAM": {"method": "freeze"}, "LoRA": LORA}
    plan = plan_of(content)
    first, second = plan.runs
    before = Record(plan.settings(first), [("phantom_006", "liver", 0.5)], base_sha256="a" * 64)
    write_orders(plan, first)
    write_record(plan.folder_of(first), before)
    with pytest.raises(ValueError, match=f"{first} was done with other weights .* than those that are there now"):
        run_study(plan)
    assert not plan.folder_of(second).exists()
    write_record(plan.folder_of(second), Record(plan.settings(second), [("a", "liver", 0.5)], base_sha256="a" * 64))
    assert run_study(plan) == {}  # nothing is left to do


def test_a_run_that_another_process_has_is_waited_for_and_not_done_twice(content, plan_of):
    plan = plan_of(content)
    theirs, ours = plan.runs
    plan.folder_of(theirs).mkdir(parents=True)
    left_over = []
    worker = threading.Thread(target=lambda: left_over.append(run_study(plan)))
    with claimed(plan.folder_of(theirs)):
        worker.start()
        wait_for(lambda: (plan.folder_of(ours) / "result.json").exists())
        time.sleep(1.5)
        assert worker.is_alive()
        assert not (plan.folder_of(theirs) / "log.txt").exists()
    worker.join(timeout=120)  # whose owner is gone, and has not done it
    assert left_over == [{}]
    assert json.loads((plan.folder_of(theirs) / "result.json").read_text(encoding="utf-8"))["epochs"] == 1


def one_run(content, plan_of, epochs):
    """A study of a single run, and the run."""
    plan = plan_of(content | {"options": content["options"] | {"epochs": epochs}, "methods": {"LoRA": LORA}})
    (run,) = plan.runs
    return plan, run


def wait_for(happened, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
