"""Evaluation and inference on several processes, as ``torchrun`` starts them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.loadsave import load

from tests.bundles.conftest import Run

FLOAT32 = {"precision": "float32"}
"""In the launcher's processes "auto" is what the machine has; in this one it is always float32."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes of the launcher: more threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def torchrun(config: Path, processes: int, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["-m", "monai.bundle", "run", "--config_file", str(config)]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False
    )


def test_several_processes_report_what_one_reports(
    run: Run, configs: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shutil.copytree(phantom, tmp_path / "phantom") / "imagesTr"
    # four cases for three processes: two for the first, and for one of the others nothing but this one
    (images / "phantom_001.nii.gz").write_bytes(b"no volume")
    options = {"dataset_dir": str(tmp_path / "phantom"), "part": "all", "image_size": 64, "min_foreground": 20}
    options |= FLOAT32
    run("evaluate", output_dir=str(tmp_path / "one"), **options)
    one = capsys.readouterr().out
    three = torchrun(configs / "evaluate.json", 3, tmp_path, output_dir=tmp_path / "three", **options)
    assert three.returncode == 0, three.stderr
    for name in ("scores.csv", "overlay.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    assert one.replace(str(tmp_path / "one"), "").strip() in three.stdout.replace(str(tmp_path / "three"), "")
    assert three.stdout.count("scores of each case") == 1
    assert three.stderr.count("phantom_001.nii.gz: the file cannot be read") == 1


def test_more_processes_than_images_write_every_mask_once_and_the_first_says_what_failed(
    run: Run, configs: Path, phantom: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(phantom / "imagesTr" / "phantom_000.nii.gz", tmp_path / "in")
    (tmp_path / "in" / "damaged.nii.gz").write_bytes(b"no volume")
    options = {"input": str(tmp_path / "in"), "image_size": 64, "preset": "ct_abdomen"} | FLOAT32
    run("inference", output_dir=str(tmp_path / "one"), **options)
    three = torchrun(configs / "inference.json", 3, tmp_path, output_dir=tmp_path / "three", **options)
    assert three.returncode == 0, three.stderr
    assert [path.name for path in (tmp_path / "three").iterdir()] == ["phantom_000.nii.gz"]
    masks = [np.asarray(load(tmp_path / name / "phantom_000.nii.gz").dataobj) for name in ("one", "three")]
    assert np.array_equal(*masks)
    assert three.stdout.count("masks written to") == three.stdout.count("skipped damaged") == 1
    assert f"masks written to {tmp_path / 'three'}: 1" in three.stdout
