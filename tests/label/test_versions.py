import json
from pathlib import Path

import pytest

from monai_cobot.cli import main
from monai_cobot.label.versions import list_versions, publish, roll_back, version_in_use
from monai_cobot.peft import AdapterError, read_adapter_config
from monai_cobot.peft.io import CONFIG_FILE, WEIGHTS_FILE


def weights(folder: Path) -> str:
    return read_adapter_config(folder).weights_sha256


@pytest.fixture
def adapter(save_ball_adapter, tmp_path: Path) -> Path:
    return save_ball_adapter(tmp_path / "adapters" / "ball")


def test_a_trained_adapter_becomes_the_next_version_and_what_was_there_stays(adapter, save_ball_adapter, tmp_path):
    before = weights(adapter)
    assert list_versions(adapter) == []
    assert version_in_use(adapter) is None
    (tmp_path / "curves.png").write_bytes(b"picture")
    trained = save_ball_adapter(tmp_path / "trained", seed=2)
    assert publish(adapter, trained, [tmp_path / "curves.png"]) == 2
    assert weights(adapter) == weights(trained)
    assert weights(adapter / "versions" / "1") == before
    assert (adapter / "versions" / "2" / "curves.png").read_bytes() == b"picture"
    assert publish(adapter, save_ball_adapter(tmp_path / "again", seed=3)) == 3
    assert list_versions(adapter) == [1, 2, 3]
    assert version_in_use(adapter) == 3


def test_a_new_adapter_begins_with_version_1(save_ball_adapter, tmp_path):
    trained = save_ball_adapter(tmp_path / "trained")
    assert publish(tmp_path / "adapters" / "ball", trained) == 1
    assert weights(tmp_path / "adapters" / "ball") == weights(trained)


def test_an_adapter_is_rolled_back_step_by_step_or_to_a_version(adapter, save_ball_adapter, tmp_path):
    known = {1: weights(adapter)}
    for seed in (2, 3):
        trained = save_ball_adapter(tmp_path / str(seed), seed=seed)
        known[publish(adapter, trained)] = weights(trained)
    assert roll_back(adapter) == 2
    assert roll_back(adapter) == 1
    assert weights(adapter) == known[1]
    with pytest.raises(AdapterError, match="no version before"):
        roll_back(adapter)
    assert roll_back(adapter, 3) == 3
    assert weights(adapter) == known[3]
    with pytest.raises(AdapterError, match="no version 7; versions are 1, 2, 3"):
        roll_back(adapter, 7)


def test_what_is_no_adapter_is_not_put_into_use(adapter, tmp_path):
    before = {name: (adapter / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / CONFIG_FILE).write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(AdapterError, match="is missing"):
        publish(adapter, tmp_path / "half")
    assert {name: (adapter / name).read_bytes() for name in before} == before
    assert list_versions(adapter) == []


def test_the_command_line_rolls_back_and_says_to_what(adapter, save_ball_adapter, tmp_path, capsys):
    before = weights(adapter)
    publish(adapter, save_ball_adapter(tmp_path / "trained", seed=2))
    with pytest.raises(SystemExit) as ended:
        main(["adapters", "rollback", str(adapter)])
    assert ended.value.code == 0
    assert "version 1 of 1, 2 is in use now" in capsys.readouterr().out
    assert weights(adapter) == before
    with pytest.raises(SystemExit) as ended:
        main(["adapters", "rollback", str(adapter)])
    assert ended.value.code == 1
    assert "there is no version before that in use" in capsys.readouterr().err
