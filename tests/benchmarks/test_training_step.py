import runpy
import sys
from pathlib import Path

import pytest


def run(repository: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    path = str(repository / "benchmarks" / "training_step.py")
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    runpy.run_path(path, run_name="__main__")


def test_the_benchmark_prints_a_ratio_with_its_spread_for_each_method(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(repository, monkeypatch, "--image_size", "64", "--repeats", "7")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["lora", "adaptformer"]
    for row in rows:
        low, high = (float(number) for number in row[4].split(" to "))
        assert 0 < low <= float(row[3]) <= high


def test_too_few_repeats_for_a_median_are_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(repository, monkeypatch, "--repeats", "3")
    assert "at least 7" in capsys.readouterr().err
