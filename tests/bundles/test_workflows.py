import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from monai_cobot.errors import root_cause
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


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_an_option_of_another_kind_is_told_before_anything_is_read(configs: Path, tmp_path: Path, name: str) -> None:
    options = {"batch_size": 0, "dataset_dir": str(tmp_path / "missing"), "output_dir": str(tmp_path / "output")}
    workflow = ConfigWorkflow(str(configs / f"{name}.json"), logging_file=False, workflow_type="infer", **options)
    with pytest.raises(RuntimeError) as caught:
        workflow.initialize()
    assert str(root_cause(caught.value)) == "batch_size is 0; a whole number of at least 1 is expected."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_every_documented_option_is_checked(configs: Path, name: str) -> None:
    content = json.loads((configs / f"{name}.json").read_text(encoding="utf-8"))
    names = list(content)
    options = set(names[names.index("bundle_root") + 1 : names.index("cases" if name == "train" else "trained")])
    assert options <= set(content["checks"])


def test_configurations_are_read_the_same_under_every_locale(repository: Path) -> None:
    """MONAI opens them with the encoding of the machine."""
    for path in repository.glob("bundles/*/configs/*.json"):
        assert path.read_text(encoding="utf-8").isascii(), path
