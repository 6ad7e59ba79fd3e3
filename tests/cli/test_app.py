import subprocess
import sys

import pytest

from monai_cobot import __version__


@pytest.mark.parametrize("command", ["train", "segment", "evaluate", "adapters", "export", "doctor"])
def test_every_command_explains_itself(cobot, command):
    assert command in cobot("--help").out
    shown = cobot(command, "--help")
    assert shown.code == 0
    assert "Usage: cobot" in shown.out


def test_help_and_version_do_not_wait_for_torch():
    code = (
        "import sys; from monai_cobot.cli import main\ntry: main(['--version'])\nfinally: print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert ended.stdout == f"cobot {__version__}\nFalse\n"


def test_a_wrong_command_line_ends_with_2_and_an_error_with_1_and_its_reason(cobot, tmp_path):
    assert cobot("segment", "--nonsense").code == 2
    ended = cobot("adapters", "info", tmp_path)
    assert ended.code == 1
    assert ended.err.startswith("Error: ")
    assert "is no adapter folder" in ended.err
    assert "Traceback" not in ended.err


def test_training_hands_its_options_and_exit_code_on(cobot, tmp_path):
    ended = cobot("train", "--dataset", "momo", "--bundle", tmp_path)
    assert ended.code == 1
    assert "name its folder" in ended.err


def test_the_doctor_shows_what_is_there(cobot):
    ended = cobot("doctor")
    assert ended.code == 0
    for expected in ("torch", "CPU", "vit_mini", __version__):
        assert expected in ended.out


def test_the_doctor_says_what_is_wrong_with_a_checkpoint(cobot, tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"")
    ended = cobot("doctor", "--sam-checkpoint", tmp_path / "sam.pth")
    assert ended.code == 1
    assert "empty" in ended.out
