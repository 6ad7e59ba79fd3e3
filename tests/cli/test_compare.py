import json
import os
import signal
import threading
import time

import pytest

from monai_cobot.data import generate_phantom


@pytest.fixture
def study(tmp_path):
    """A study of two runs."""
    phantom = generate_phantom(tmp_path / "phantom", num_cases=8, size=(48, 36, 8))
    content = {
        "options": {"image_size": 64, "min_foreground": 20, "epochs": 40, "slices_per_epoch": 4, "batch_size": 4},
        "datasets": {"phantom": {"dataset": "phantom", "dataset_dir": str(phantom), "label": "liver"}},
        "methods": {"LoRA": {"method": "lora", "orchestrate": False}},
        "seeds": [0, 1],
    }
    path = tmp_path / "small.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_report_can_be_had_before_anything_is_done(cobot, study, tmp_path):
    ended = cobot("compare", study, "-o", tmp_path / "out", "--report-only")
    assert ended.code == 0
    assert "0 of 2 runs are done." in ended.out
    assert (tmp_path / "out" / "results.csv").is_file()


def test_a_misspelt_option_is_told_before_anything_runs(cobot, study, tmp_path):
    study.write_text(study.read_text(encoding="utf-8").replace("min_foreground", "min_forground"), encoding="utf-8")
    ended = cobot("compare", study, "-o", tmp_path / "out")
    assert ended.code == 1
    assert "did you mean min_foreground?" in ended.err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_what_is_done_and_ends_with_130(cobot, study, tmp_path):
    folder = tmp_path / "out" / "runs" / "phantom" / "LoRA" / "seed_0"

    def interrupt() -> None:
        end = time.monotonic() + 200
        while not (folder / "checkpoint.pt").exists() and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    ended = cobot("compare", study, "-o", tmp_path / "out")
    assert ended.code == 130
    assert "0 of 2 runs are done." in ended.out
    assert "Stopped. The same command goes on." in ended.out
    assert "Stopped in epoch" in (folder / "log.txt").read_text(encoding="utf-8")
    assert not (folder / "result.json").exists()
