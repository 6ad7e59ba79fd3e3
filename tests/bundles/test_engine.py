"""The options that decide how fast and in how much memory the bundle computes."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from tests.bundles.conftest import TINY, Run

SHORT = {**TINY, "epochs": 2, "slices_per_epoch": 8, "batch_size": 4, "learning_rate": 1e-4}


def losses(workflow: ConfigWorkflow) -> list[float]:
    return [record["loss"] for record in workflow.parser.get_parsed_content("history").epochs[1:]]


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*.safetensors"))


def test_training_from_kept_features_is_the_same_training(run: Run, phantom: Path, tmp_path: Path) -> None:
    options = {"method": "lora", "blocks": 2, "orchestrate": True}

    def train(name: str, **more: object) -> list[float]:
        arguments = {**SHORT, "dataset_dir": str(phantom), "output_dir": str(tmp_path / name), **options, **more}
        return losses(run("train", "train", **arguments))

    features = tmp_path / "first" / "features"
    expected = train("without", feature_cache_gb=0)
    assert not (tmp_path / "without" / "features").exists()
    first = train("first")
    kept = files(features)
    assert first == pytest.approx(expected, rel=1e-5)
    assert len({path.stem for path in kept}) == len(kept) > 8  # of training and validation
    # a training that shares the folder finds all it needs there, and is the same bit for bit
    assert train("second", feature_cache_dir=str(features)) == first
    assert files(features) == kept
    assert not (tmp_path / "second" / "features").exists()


def test_the_papers_recipe_keeps_no_features(trained: Path) -> None:
    assert (trained / "best").exists()
    assert not (trained / "features").exists()


def test_precision_and_gradient_checkpointing_reach_the_network_and_leave_a_float32_adapter(
    run: Run, phantom: Path, tmp_path: Path
) -> None:
    options = {**SHORT, "dataset_dir": str(phantom), "method": "lora", "orchestrate": False, "epochs": 1}
    exact = run("train", "train", output_dir=str(tmp_path / "exact"), precision="float32", **options)
    workflow = run(
        "train",
        "train",
        output_dir=str(tmp_path / "rounded"),
        precision="bfloat16",
        gradient_checkpointing=True,
        **options,
    )
    assert workflow.network_def.computing_type() == torch.bfloat16
    assert workflow.network_def.sam.image_encoder.gradient_checkpointing
    assert not exact.network_def.sam.image_encoder.gradient_checkpointing
    assert losses(workflow) != losses(exact)
    assert losses(workflow) == pytest.approx(losses(exact), rel=0.05)
    weights = load_file(tmp_path / "rounded" / "best" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    for name in ("evaluate", "inference"):
        workflow = run(
            name,
            dataset_dir=str(phantom),
            adapter_dir=str(tmp_path / "rounded" / "best"),
            min_foreground=20,
            precision="bfloat16",
            output_dir=str(tmp_path / name),
        )
        assert workflow.network_def.computing_type() == torch.bfloat16
