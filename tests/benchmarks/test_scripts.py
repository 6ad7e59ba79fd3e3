"""The benchmarks that stand for themselves run, and print what their docs say."""

import subprocess
import sys
from pathlib import Path

from monai_cobot.data import generate_phantom


def run(repository: Path, script: str, *arguments: object) -> str:
    command = [sys.executable, str(repository / "benchmarks" / script), *map(str, arguments)]
    ended = subprocess.run(command, cwd=repository, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_time_that_a_user_waits_is_printed_for_each_kind_of_request(repository: Path) -> None:
    shown = run(repository, "interaction.py", "--slices", 2, "--repeats", 2)
    rows = [line.split("|")[1:-1] for line in shown.splitlines() if line.startswith("| ")][2:]
    names = ["box, embedding kept", "box, new slice", "3D box of 2 new slices", "another adapter, from disk"]
    assert [row[0].strip() for row in rows] == names
    assert all(float(row[1]) > 0 for row in rows)


def test_volumes_from_boxes_are_compared_with_a_box_on_every_slice(repository: Path, tmp_path: Path) -> None:
    data = generate_phantom(tmp_path / "phantom", num_cases=4, size=(48, 36, 12))
    options = ["--dataset", "phantom", "--dataset_dir", data, "--label", "liver", "--cases", 1]
    options += ["--picture", tmp_path / "slices.png"]
    shown = run(repository, "volume_from_boxes.py", *options)
    assert "| label | cases | box on each slice | 3 boxes | 3 boxes, fused | 3D box | 3D box, fused |" in shown
    assert (tmp_path / "slices.png").is_file()
