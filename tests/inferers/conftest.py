from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from monai_cobot.data import Volume, volume_from_array
from monai_cobot.inferers import AdapterShelf
from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, save_adapter

SIZE = 64
LPS_AFFINE = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, -12], [0, 0, 3.0, 7], [0, 0, 0, 1]])

VolumeIn = Callable[[str], Volume]


@pytest.fixture(scope="session")
def shelf() -> AdapterShelf:
    """vit_mini with its own weights, at a size that computes in milliseconds."""
    return AdapterShelf(build_sam("vit_mini", image_size=SIZE))


@pytest.fixture(scope="session")
def ball() -> np.ndarray:
    """(30, 28, 20) in LPS: a bright ellipsoid off the centre, in noise."""
    grid = np.stack(np.meshgrid(np.arange(30), np.arange(28), np.arange(20), indexing="ij"), axis=-1)
    inside = (((grid - (12, 15, 9)) / (8, 6, 5)) ** 2).sum(-1) < 1
    noise = np.random.default_rng(0).normal(0, 20, inside.shape)
    return (noise + np.where(inside, 150, -20)).round().astype(np.int16)


@pytest.fixture(scope="session")
def volume_in(ball: np.ndarray) -> VolumeIn:
    """The ball as a file with axes of some orientation would give it."""

    def turned(orientation: str) -> Volume:
        turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(orientation))
        return volume_from_array(apply_orientation(ball, turn), LPS_AFFINE @ inv_ornt_aff(turn, ball.shape))

    return turned


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves an adapter with weights that change the output, for the SAM of the shelf."""

    def save(method: str = "lora", seed: int = 0, **options: object) -> Path:
        adapter = adapt(build_sam("vit_mini", image_size=SIZE), method, **options)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in adapter.named_parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        folder = tmp_path_factory.mktemp("adapters") / f"{method}_{seed}"
        return save_adapter(adapter, folder, preset="window:-100,200", labels={"ball": 1}, details={"axis": "coronal"})

    return save
