from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from tests.bundles.conftest import TINY


@pytest.mark.parametrize(
    ("name", "workflow_type", "options"),
    [
        ("train", "train", {"epochs": 1, "slices_per_epoch": 4, "batch_size": 4, "label": "liver", **TINY}),
        ("evaluate", "infer", {"label": "liver", **TINY}),
        ("inference", "infer", {"label": "liver", **TINY}),
    ],
)
def test_a_workflow_has_monais_properties_and_runs_from_initialize_to_finalize(
    configs: Path, phantom: Path, tmp_path: Path, name: str, workflow_type: str, options: dict[str, Any]
) -> None:
    output = tmp_path / "output"
    workflow = ConfigWorkflow(
        str(configs / f"{name}.json"),
        logging_file=False,
        workflow_type=workflow_type,
        dataset_dir=str(phantom),
        output_dir=str(output),
        **options,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    assert workflow.version == "0.1.0"
    assert any(output.iterdir())
