import re
from pathlib import Path

import numpy as np

from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, save_adapter


def run_example(page: Path) -> None:
    example = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    exec(compile(example, page.name, "exec"), {})


def test_the_python_example_runs_as_it_stands(repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_example(repository / "README.md")
    assert capsys.readouterr().out.startswith("{'encoder': ")
    assert (tmp_path / "runs" / "in_python" / "adapter_config.json").exists()


def test_the_example_of_a_session_segments_a_ball_as_it_stands(repository, tmp_path, monkeypatch):
    from nibabel import Nifti1Image, load, save

    grid = np.stack(np.meshgrid(np.arange(64), np.arange(64), np.arange(16), indexing="ij"), axis=-1)
    ball = (((grid - (32, 32, 8)) / (10, 10, 5)) ** 2).sum(-1) < 1
    noise = np.random.default_rng(0).normal(0, 10, ball.shape)
    monkeypatch.chdir(tmp_path)
    save(Nifti1Image((noise + np.where(ball, 120, -60)).astype(np.int16), np.diag([-1, -1, 2, 1])), "scan.nii.gz")
    save_adapter(adapt(build_sam("vit_mini", image_size=128), "lora"), "runs/mine/best", preset="ct_abdomen")
    run_example(repository / "docs" / "python.md")
    found = load("labels.nii.gz").get_fdata() == 1
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.8


def test_every_file_that_is_linked_exists(repository):
    for page in (
        repository / "README.md",
        *(repository / "docs").glob("*.md"),
        *repository.glob("bundles/*/docs/*.md"),
    ):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
