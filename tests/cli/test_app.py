import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from monai_cobot import __version__
from monai_cobot.data import generate_phantom
from monai_cobot.label.server import INSTALL


@pytest.mark.parametrize(
    "command", ["train", "compare", "segment", "evaluate", "adapters", "export", "serve", "doctor"]
)
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


def test_what_a_terminal_cannot_show_is_no_error():
    code = "from monai_cobot.cli import main\ntry: main(['--version'])\nfinally: print('0.8 \\xb1 0.1')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.splitlines()[-1] == b"0.8 ? 0.1"


def test_a_wrong_command_line_ends_with_2_and_an_error_with_1_and_its_reason(cobot, tmp_path):
    assert cobot("segment", "--nonsense").code == 2
    ended = cobot("adapters", "info", tmp_path)
    assert ended.code == 1
    assert ended.err.startswith("Error: ")
    assert "is no adapter folder" in ended.err
    assert "Traceback" not in ended.err


def test_training_wants_the_bundle(cobot, tmp_path):
    ended = cobot("train", "--dataset", "momo", "--bundle", tmp_path)
    assert ended.code == 1
    assert "name its folder" in ended.err


@pytest.fixture
def train(repository, tmp_path):
    """The command line of a training on four tiny cases."""
    data = generate_phantom(tmp_path / "phantom", num_cases=4, size=(48, 36, 12))
    command = [sys.executable, "-m", "monai_cobot", "train", "--bundle", repository / "bundles" / "cobot_sam"]
    command += ["--dataset-dir", data, "--image_size", 64, "--min_foreground", 20, "--slices_per_epoch", 8]
    return [*map(str, command), "--output-dir", str(tmp_path / "run")]


def test_training_is_the_bundles_with_its_options_and_exit_code(train, tmp_path):
    options = ["--method", "bitfit", "--no-orchestrate", "--epochs", "1"]
    ended = subprocess.run([*train, *options], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    assert '"method": "bitfit"' in (tmp_path / "run" / "best" / "adapter_config.json").read_text(encoding="utf-8")
    ended = subprocess.run([*train, "--epoch", "2"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 1
    assert "did you mean --epochs" in ended.stderr


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console, this test's own process too"
)
def test_a_training_that_is_stopped_reports_before_it_ends(train, tmp_path):
    process = subprocess.Popen(
        [*train, "--epochs", "1000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    end = time.monotonic() + 200
    while not (tmp_path / "run" / "checkpoint.pt").exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopped in epoch" in shown
    assert (tmp_path / "run" / "overlay.png").is_file()


def test_the_doctor_shows_what_is_there(cobot):
    ended = cobot("doctor")
    assert ended.code == 0
    for expected in ("torch", "CPU", "vit_mini", __version__):
        assert expected in ended.out


def take_away(monkeypatch, packages):
    """Let the doctor find packages as if they were not installed, and write lines of any length."""
    import monai_cobot.cli.doctor as module

    version = module.version

    def without(name):
        if name in packages:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(module, "version", without)
    monkeypatch.setenv("COLUMNS", "400")


def test_the_doctor_says_how_to_install_what_is_missing(cobot, monkeypatch):
    take_away(monkeypatch, ["nibabel", "monailabel", "pydicom-seg"])
    ended = cobot("doctor")
    assert ended.code == 1
    assert 'pip install "nibabel' in ended.out
    assert f"not installed (cobot serve: {INSTALL})" in ended.out
    assert "pydicom-seg" in ended.out


@pytest.mark.parametrize(
    ("name", "found", "asked", "shown"),
    [
        ("monai", "1.3.0", "monai>=1.6", ["1.3.0", 'pip install "monai>=1.6"']),
        (
            "onnxruntime",
            "1.0",
            'onnxruntime>=1.22; extra == "export"',
            ["1.0 does not fit (cobot export: extra export)", 'pip install "onnxruntime>=1.22"'],
        ),
    ],
    ids=["needed", "optional"],
)
def test_the_doctor_says_what_to_install_where_a_version_is_too_old(cobot, monkeypatch, name, found, asked, shown):
    import monai_cobot.cli.doctor as module

    version = module.version
    monkeypatch.setattr(module, "version", lambda package: found if package == name else version(package))
    monkeypatch.setattr(module, "requires", lambda _: [asked])
    monkeypatch.setenv("COLUMNS", "400")
    ended = cobot("doctor")
    assert ended.code == 1
    (row,) = [line for line in ended.out.splitlines() if line.split("│")[1:2] and line.split("│")[1].strip() == name]
    assert [cell.strip() for cell in row.split("│")[2:4]] == shown


@pytest.mark.parametrize("extra", ["export", "openvino"])
def test_the_doctor_says_of_every_package_of_an_extra_that_it_is_missing(cobot, monkeypatch, extra):
    of_extra = [Requirement(line) for line in requires("monai-cobot") if f'extra == "{extra}"' in line]
    missing = [item.name for item in of_extra]
    assert missing
    take_away(monkeypatch, missing)
    ended = cobot("doctor")
    assert ended.code == 0
    said = [line for line in ended.out.splitlines() if f"extra {extra})" in line]
    assert {line.split("│")[1].strip() for line in said} == set(missing)


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("torch", 'pip install --force-reinstall --no-deps "torch=='),
        ("segment_anything", "pip install segment-anything==1.0"),
        ("safetensors", 'pip install --force-reinstall --no-deps "safetensors=='),
    ],
)
def test_the_doctor_has_advice_where_a_package_cannot_be_imported(module, advice):
    code = f"import sys; sys.modules[{module!r}] = None; from monai_cobot.cli import main; main(['doctor'])"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"COLUMNS": "400", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert advice in ended.stdout
    assert "Python" in ended.stdout


def test_the_doctor_says_that_a_broken_torchvision_does_no_harm(cobot, tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('built for another torch')", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    ended = cobot("doctor")
    assert ended.code == 0
    assert "no (built for another torch); monai_cobot works without it" in ended.out


def test_the_doctor_says_what_is_wrong_with_a_checkpoint(cobot, tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"")
    ended = cobot("doctor", "--sam-checkpoint", tmp_path / "sam.pth")
    assert ended.code == 1
    assert "empty" in ended.out
