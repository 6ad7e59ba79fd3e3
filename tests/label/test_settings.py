import importlib.util
from pathlib import Path

import pytest

from monai_cobot.cli import main
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
