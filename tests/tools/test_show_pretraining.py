"""Pictures of the generated images and of a pretraining run."""

import json
from pathlib import Path

import pytest
import show_pretraining
from PIL import Image


@pytest.fixture(autouse=True)
def few_small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of two images."""
    monkeypatch.setattr(show_pretraining, "ROWS", 1)
    monkeypatch.setattr(show_pretraining, "COLUMNS", 2)
    monkeypatch.setattr(show_pretraining, "SIZE", 48)


def test_a_run_is_drawn_with_samples_of_its_images(tmp_path: Path) -> None:
    lines = [
        {"minutes": 1, "size": 64, "loss": 2.0},
        {"minutes": 5, "size": 64, "dice": 0.5, "ellipse_dice": 0.75},
        {"minutes": 6, "size": 128, "loss": 1.0},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    show_pretraining.main(["--log", str(tmp_path / "log.jsonl"), "--to", str(tmp_path / "docs")])
    for name in ("pretraining_samples.png", "pretraining_log.png"):
        picture = Image.open(tmp_path / "docs" / name).convert("L")
        assert picture.getextrema()[0] < 50


def test_samples_are_drawn_without_a_run(tmp_path: Path) -> None:
    show_pretraining.main(["--log", str(tmp_path / "none"), "--to", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["pretraining_samples.png"]
