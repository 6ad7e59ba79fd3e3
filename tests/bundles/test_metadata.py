import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import verify_metadata
from monai.bundle.utils import DEFAULT_METADATA

import monai_cobot

# What MONAI's bundle specification asks of an input or output of a network.
TENSOR = {
    "type": "object",
    "required": [
        "type",
        "format",
        "num_channels",
        "spatial_shape",
        "dtype",
        "value_range",
        "is_patch_data",
        "channel_def",
    ],
    "properties": {
        "type": {"type": "string"},
        "format": {"type": "string"},
        "modality": {"type": "string"},
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "dtype": {"type": "string"},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": TENSOR}
TEXT = {"type": "string", "minLength": 1}
VERSION = {"type": "string", "pattern": r"^\d+\.\d+(\.\d+)?$"}
SCHEMA = {
    "type": "object",
    "required": ["schema", *DEFAULT_METADATA],
    "properties": {
        **dict.fromkeys(("version", "monai_version", "pytorch_version", "numpy_version"), VERSION),
        **{
            key: {"type": "string", "minLength": 1} for key in ("schema", "task", "description", "authors", "copyright")
        },
        **{key: {"type": "string"} for key in ("name", "data_source", "data_type", "intended_use")},
        "changelog": {"type": "object", "additionalProperties": {"type": "string"}},
        "required_packages_version": {"type": "object", "additionalProperties": VERSION},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}


@pytest.fixture
def metadata(configs: Path) -> dict[str, Any]:
    return json.loads((configs / "metadata.json").read_text(encoding="utf-8"))


def test_monais_command_finds_every_key_that_it_asks_for(
    configs: Path, tmp_path: Path, metadata: dict[str, Any]
) -> None:
    schema = tmp_path / "schema.json"  # stands in for the one that the command would download
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(schema))
    (tmp_path / "metadata.json").write_text(
        json.dumps({key: metadata[key] for key in metadata if key != "task"}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="'task' is a required property"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(schema))


def test_versions_are_the_packages_own_and_those_that_are_tested(repository: Path, metadata: dict[str, Any]) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8")
    tested = {name.lower(): version for name, version in re.findall(r"^([\w-]+)==(\S+)$", lines, flags=re.MULTILINE)}
    packages = metadata["required_packages_version"]
    assert metadata["version"] == packages.pop("monai-cobot") == monai_cobot.__version__
    assert metadata["version"] in metadata["changelog"]
    assert metadata["monai_version"] == tested["monai"]
    assert metadata["pytorch_version"] == tested["torch"]
    assert metadata["numpy_version"] == tested["numpy"]
    assert packages == {name: tested[name.lower()] for name in packages}
