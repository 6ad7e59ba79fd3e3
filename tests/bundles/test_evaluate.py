import csv
from pathlib import Path

import matplotlib.image
import pytest
import torch

from monai_cobot.data import SliceDataset
from monai_cobot.errors import root_cause
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import adapt, save_adapter
from monai_cobot.peft.method import AdaptedModule
from tests.bundles.conftest import TINY, Run


def scores(path: Path, column: str) -> dict[tuple[str, str], float]:
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["case"], row["label"]): float(row[column]) for row in csv.DictReader(file)}


def test_an_adapter_scores_what_its_training_reported(
    run: Run, phantom: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "evaluate",
        dataset_dir=str(phantom),
        adapter_dir=str(trained / "best"),
        min_foreground=20,
        output_dir=str(tmp_path),
    )
    reported = scores(trained / "scores.csv", "dice_fine-tuned")
    assert scores(tmp_path / "scores.csv", "dice_prediction") == reported
    assert {label for _, label in reported} == {"liver", "spleen", "right kidney", "left kidney", "stomach"}
    assert max(reported.values()) > 0
    printed = capsys.readouterr().out
    assert "adaptformer with COBOT" in printed
    assert all(label in printed for _, label in reported)
    assert matplotlib.image.imread(tmp_path / "overlay.png").shape[1] > 500


@pytest.mark.parametrize(("method", "is_merged"), [("lora", True), ("adaptformer", False)])
def test_cobot_is_folded_and_what_is_linear_merged_with_the_same_masks(
    run: Run, phantom: Path, tmp_path: Path, method: str, is_merged: bool
) -> None:
    adapter = adapt(build_sam("vit_mini", image_size=64), method, orchestrate=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name.startswith("image_encoder."):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(adapter, tmp_path / "adapter")
    adapter.sam.eval()
    options = {"dataset_dir": str(phantom), "adapter_dir": str(tmp_path / "adapter"), "label": "liver"}
    image = torch.rand(1, 1, 64, 64, generator=generator)
    with torch.no_grad():
        expected = PromptableSam(adapter.sam)(image)
        for config in ("evaluate", "inference"):
            used = run(config, output_dir=str(tmp_path / config), **options).parser.get_parsed_content("network_def")
            modules = dict(used.named_modules())
            assert not [name for name in modules if "orchestrator" in name]
            merged = [module.merged for module in modules.values() if isinstance(module, AdaptedModule)]
            assert merged
            assert all(merged) == is_merged
            assert any(merged) == is_merged
            assert torch.allclose(used(image), expected, rtol=1e-3, atol=1e-3)


def test_without_an_adapter_sam_scores_what_it_did_before_training(
    run: Run, phantom: Path, trained: Path, tmp_path: Path
) -> None:
    run("evaluate", dataset_dir=str(phantom), output_dir=str(tmp_path), **TINY)
    assert scores(tmp_path / "scores.csv", "dice_prediction") == scores(trained / "scores.csv", "dice_zero-shot")


def test_variant_image_size_preset_and_labels_are_the_adapters(run: Run, phantom: Path, tmp_path: Path) -> None:
    run(
        "train",
        "train",
        dataset_dir=str(phantom),
        label="liver",
        preset="ct_bone",
        method="lora",
        epochs=1,
        slices_per_epoch=4,
        output_dir=str(tmp_path / "run"),
        **TINY,
    )
    workflow = run(
        "evaluate",
        dataset_dir=str(phantom),
        adapter_dir=str(tmp_path / "run" / "best"),
        part="training",
        min_foreground=20,
        output_dir=str(tmp_path),
    )
    slices: SliceDataset = workflow.parser.get_parsed_content("slices")
    assert workflow.network_def.sam.image_encoder.img_size == 64
    assert (slices.label_names, slices.preset.window) == (["liver"], (-500, 1300))
    assert slices.cases == ["phantom_000", "phantom_001", "phantom_002"]


def test_an_unknown_part_is_refused_with_the_parts_that_there_are(run: Run, phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        run("evaluate", dataset_dir=str(phantom), part="test", output_dir=str(tmp_path), **TINY)
    assert "choose one of training, validation, all" in str(root_cause(raised.value))
