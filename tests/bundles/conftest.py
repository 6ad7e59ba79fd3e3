"""Small runs of the bundle's configurations, in this process, as ``python -m monai.bundle run`` does them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from torch import nn

from monai_cobot.data import generate_phantom

Run = Callable[..., ConfigWorkflow]

TINY = {"image_size": 64, "min_foreground": 20}


class BrightInBox(nn.Module):
    """A network whose right answer is known: what is bright in the box."""

    def forward(self, image: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), (B, N, 4) -> (B, N, H, W)."""
        rows, columns = (torch.arange(length) for length in image.shape[-2:])
        x0, y0, x1, y1 = boxes[..., None, None].unbind(2)  # (B, N, 1, 1)
        inside = (columns >= x0) & (columns < x1) & (rows[:, None] >= y0) & (rows[:, None] < y1)
        return torch.where(inside & (image.mean(dim=1, keepdim=True) > 0.5), 5.0, -5.0)


@pytest.fixture(scope="session")
def configs(repository: Path) -> Path:
    """The folder of the bundle's configurations."""
    return repository / "bundles" / "cobot_sam" / "configs"


@pytest.fixture(scope="session")
def run(configs: Path) -> Run:
    """Runs a configuration to its end and returns the workflow."""

    def run_config(name: str, workflow_type: str = "infer", run_id: str = "run", **options: Any) -> ConfigWorkflow:
        workflow = ConfigWorkflow(
            str(configs / f"{name}.json"), logging_file=False, workflow_type=workflow_type, run_id=run_id, **options
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    return run_config


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tiny cases in three orientations, one of them for validation."""
    return generate_phantom(tmp_path_factory.mktemp("data") / "phantom", num_cases=4, size=(48, 36, 12))


@pytest.fixture(scope="session")
def trained(run: Run, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of two steps writes."""
    folder = tmp_path_factory.mktemp("runs")
    run(
        "train",
        "train",
        dataset_dir=str(phantom),
        epochs=1,
        slices_per_epoch=8,
        batch_size=4,
        learning_rate=1e-5,  # so little that the masks do not become empty
        output_dir=str(folder),
        **TINY,
    )
    return folder
