"""Small studies on a tiny phantom, in this process; their runs are processes of their own, as always."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_cobot.data import generate_phantom
from monai_cobot.study import Plan, make_plan, read_study

MakePlan = Callable[..., Plan]

TINY = {"image_size": 64, "min_foreground": 20, "epochs": 1, "slices_per_epoch": 4, "batch_size": 4, "label": "liver"}
LORA = {"method": "lora", "rank": 4, "orchestrate": False}
LORA_COBOT = {"method": "lora", "rank": 4, "orchestrate": True}


@pytest.fixture(scope="session")
def train_config(repository: Path) -> Path:
    """The bundle's configuration of training."""
    return repository / "bundles" / "cobot_sam" / "configs" / "train.json"


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tiny cases, two of them for validation."""
    return generate_phantom(tmp_path_factory.mktemp("data") / "phantom", num_cases=8, size=(48, 36, 8))


@pytest.fixture
def content(phantom: Path) -> dict[str, Any]:
    """What a small study file holds."""
    return {
        "options": TINY,
        "datasets": {"phantom": {"dataset": "phantom", "dataset_dir": str(phantom)}},
        "methods": {"LoRA": LORA, "LoRA + COBOT": LORA_COBOT},
    }


@pytest.fixture
def plan_of(train_config: Path, tmp_path: Path) -> MakePlan:
    """Writes a study file and makes its plan, with the runs below ``tmp_path / "out"``."""

    def plan(content: dict[str, Any]) -> Plan:
        path = tmp_path / "study.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return make_plan(read_study(path, train_config), tmp_path / "out", train_config)

    return plan
