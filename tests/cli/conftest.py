from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from monai_cobot.cli import main
from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, save_adapter


@dataclass
class Ended:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def cobot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs a command in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def ball() -> np.ndarray:
    """(K, J, I) int16: a bright ellipsoid in noise."""
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(28), np.arange(30), indexing="ij"), axis=-1)
    inside = (((grid - (6, 15, 12)) / (4, 6, 8)) ** 2).sum(-1) < 1
    return (np.random.default_rng(0).normal(0, 20, inside.shape) + np.where(inside, 150, -20)).round().astype(np.int16)


@pytest.fixture
def image(ball: np.ndarray, tmp_path: Path) -> Path:
    """The ball as NIfTI."""
    path = tmp_path / "ball.nii.gz"
    volume = sitk.GetImageFromArray(ball)
    volume.SetSpacing((1.5, 1.5, 3.0))
    sitk.WriteImage(volume, str(path))
    return path


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA with COBOT for vit_mini at 64 pixels, with weights that change the output."""
    adapter = adapt(build_sam("vit_mini", image_size=64), "lora", orchestrate=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("adapters") / "lora_cobot"
    return save_adapter(adapter, folder, preset="window:-100,200", labels={"ball": 1})
