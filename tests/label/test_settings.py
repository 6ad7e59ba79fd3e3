import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from monai_cobot.cli import main
from monai_cobot.label.models import Models
from monai_cobot.label.server import APP, Settings


def test_adapters_and_work_lie_in_the_studies_unless_said_otherwise(tmp_path):
    settings = Settings.read({}, str(tmp_path), "app")
    assert (settings.adapters, settings.work) == (tmp_path / "adapters", tmp_path / ".cobot")
    assert settings.train_config.is_file()
    assert Settings.read({"adapters": "/elsewhere"}, str(tmp_path), "app").adapters == Path("/elsewhere")
    assert Settings.read({}, "http://127.0.0.1/dicom-web", str(tmp_path)).adapters == tmp_path / "adapters"
    assert Settings.read({"image_size": "128", "look_ahead": "False"}, str(tmp_path), "app").image_size == 128


@pytest.mark.parametrize("conf", [{"adapter": "x"}, {"image_size": "large"}, {"look_ahead": "maybe"}])
def test_settings_that_are_unknown_or_cannot_be_used_are_refused(conf, tmp_path):
    with pytest.raises(ValueError, match="setting"):
        Settings.read(conf, str(tmp_path), "app")


def test_the_app_is_one_file_that_every_folder_may_hold_a_copy_of():
    assert [path.name for path in APP.iterdir() if path.suffix == ".py"] == ["main.py"]


def test_without_monai_label_the_command_says_how_it_is_installed(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "monailabel" else find(name))
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--studies", str(tmp_path)])
    assert ended.value.code == 1
    assert "pip install --no-deps monailabel==0.8.5" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_runs_the_encoder_where_embeddings_are_kept_and_who_may_ask_are_settings(tmp_path):
    conf = {"backend": "openvino", "cache_dir": str(tmp_path / "kept"), "cache_disk_gb": "0.5", "host": "0.0.0.0"}
    settings = Settings.read({**conf, "allow_origins": "http://a:3000/, https://b"}, str(tmp_path), "app")
    assert (settings.backend, settings.cache_dir, settings.cache_disk_gb) == ("openvino", tmp_path / "kept", 0.5)
    assert (settings.host, settings.allow_origins) == ("0.0.0.0", ("http://a:3000", "https://b"))
    usual = Settings.read({}, str(tmp_path), "app")
    assert (usual.backend, usual.cache_dir, usual.host, usual.allow_origins) == ("auto", None, "127.0.0.1", ())


def test_the_command_hands_on_what_it_was_given(tmp_path, monkeypatch):
    import monai_cobot.label.server as module

    handed_on = []
    monkeypatch.setattr(module, "serve", lambda *arguments: handed_on.append(arguments))
    options = [
        "--backend",
        "openvino",
        "--cache-dir",
        str(tmp_path),
        "--cache-disk-gb",
        "2",
        "--allow-origin",
        "http://a",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--studies", "http://pacs:8042/dicom-web", "--host", "0.0.0.0", "--port", "8001", *options])
    assert ended.value.code == 0
    ((studies, settings, host, port),) = handed_on
    assert (studies, host, port) == ("http://pacs:8042/dicom-web", "0.0.0.0", 8001)
    conf = {name: str(value) for name, value in settings.items() if value is not None}
    read = Settings.read(conf, studies, str(tmp_path))
    assert (read.backend, read.cache_dir, read.cache_disk_gb) == ("openvino", tmp_path, 2.0)
    assert (read.allow_origins, read.device) == (("http://a",), None)


@pytest.mark.parametrize("origins", ["*", "ohif.example", "http://a/viewer", "http://", "file:///x", "null"])
def test_web_pages_are_named_by_their_address(origins, tmp_path):
    with pytest.raises(ValueError, match="allow_origins"):
        Settings.read({"allow_origins": origins}, str(tmp_path), "app")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "abacus"], "this device cannot be used here"),
        (["--backend", "fast"], "Unknown backend 'fast'"),
        (["--sam-variant", "vit_b"], "sam_checkpoint"),
        (["--sam-variant", "vit_b", "--sam-checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["--image-size", "65"], "65"),
        (["--allow-origin", "*"], "allow_origins"),
        (["--cache-dir", "kept", "--cache-disk-gb", "0"], "more than 0"),
    ],
)
def test_what_cannot_work_ends_the_command_with_the_reason_and_not_the_first_request(
    monailabel, options, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MONAI_LABEL_SESSION_PATH", str(tmp_path / "sessions"))
    monkeypatch.setattr(sys, "argv", ["cobot"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--studies", str(tmp_path / "studies"), *options])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_models_of_a_server_compute_on_a_gpu_where_there_is_one(tmp_path):
    models = Models(tmp_path / "adapters", image_size=64)
    assert models.load("vit_mini").network.sam.pixel_mean.device.type == "cuda"
