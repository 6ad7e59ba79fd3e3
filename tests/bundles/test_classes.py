"""Classes without prompts: trained, evaluated and used through the bundle."""

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from monai_cobot.data import SliceDataset, open_dataset, read_mask, read_volume
from monai_cobot.errors import root_cause
from monai_cobot.networks import PromptableSam, build_sam, class_head_of
from monai_cobot.peft import adapt, load_adapter, read_adapter_config, save_adapter
from monai_cobot.transforms import place_slice
from tests.bundles.conftest import Run
from tests.bundles.test_evaluate import scores

LABELS = {"liver": 1, "right kidney": 3}


@pytest.fixture(scope="module")
def classes(run: Run, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short training of two classes writes; the batches' padding and both head and encoder take part."""
    folder = tmp_path_factory.mktemp("classes")
    run(
        "train",
        "train",
        head="classes",
        label=list(LABELS),
        dataset_dir=str(phantom),
        output_dir=str(folder),
        image_size=64,
        method="lora",
        epochs=5,
        batch_size=4,
        val_interval=5,
        learning_rate=1e-3,
    )
    return folder


def test_a_training_without_prompts_beats_the_empty_answer(classes: Path) -> None:
    reached = scores(classes / "scores.csv", "dice_fine-tuned")
    assert {label for _, label in reached} == set(LABELS)
    assert np.mean(list(reached.values())) > 0.3  # an empty answer has 0
    assert (
        (classes / "scores.csv").read_text(encoding="utf-8").startswith("case,label,dice_zero-shot,dice_fine-tuned\n")
    )
    assert matplotlib.image.imread(classes / "overlay.png").shape[1] > 500
    config = read_adapter_config(classes / "best")
    assert config.classes == 2
    assert config.labels == LABELS


def test_an_evaluation_knows_by_itself_that_the_adapter_has_classes(
    run: Run, phantom: Path, classes: Path, tmp_path: Path
) -> None:
    run("evaluate", dataset_dir=str(phantom), adapter_dir=str(classes / "best"), output_dir=str(tmp_path))
    reached = scores(classes / "scores.csv", "dice_fine-tuned")
    assert scores(tmp_path / "scores.csv", "dice_prediction") == pytest.approx(reached, abs=0.002)


@pytest.fixture(scope="module")
def arbitrary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose second class is found somewhere."""
    sam = build_sam("vit_mini", image_size=64)
    adapter = adapt(sam, "lora", classes=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in class_head_of(sam).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return save_adapter(adapter, tmp_path_factory.mktemp("arbitrary") / "best", preset="ct_abdomen", labels=LABELS)


@pytest.mark.parametrize("own_images", [True, False])
def test_masks_hold_the_labels_values_wherever_the_network_sees_them(
    run: Run, phantom: Path, arbitrary: Path, tmp_path: Path, own_images: bool
) -> None:
    case = open_dataset("phantom", phantom).validation[0]
    source = {"input": str(case.image)} if own_images else {"dataset_dir": str(phantom)}
    # fewer than there are classes: those of a slice stay together all the same
    run("inference", adapter_dir=str(arbitrary), output_dir=str(tmp_path), batch_size=1, **source)
    sam = build_sam("vit_mini", image_size=64)
    load_adapter(sam, arbitrary)
    network = PromptableSam(sam).eval()
    split = open_dataset("phantom", phantom, label=list(LABELS))
    slices = SliceDataset([case], split.labels, split.preset, classes=True, progress=False)
    expected = np.zeros((1, *read_volume(case.image).array.shape[1:]), dtype=np.uint8)
    values = np.array([0, *LABELS.values()], dtype=np.uint8)
    for index in range(len(slices)):
        with torch.no_grad():
            found = network(slices[index]["image"][None])[0].argmax(dim=0, keepdim=True)
        place_slice(expected, values[found.numpy()], "axial", slices[index]["slice"])
    written = read_mask(tmp_path / case.image.name).array
    assert {0, 3} <= set(np.unique(written)) <= {0, 1, 3}
    assert (written != expected).mean() < 1e-3


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("evaluate", {"head": "boxes"}, "head is 'boxes', but the adapter was trained for classes"),
        (
            "evaluate",
            {"label": ["right kidney", "liver"]},
            "the classes liver, right kidney, in this order, and not right kidney, liver",
        ),
        ("inference", {"label": "liver"}, "the classes liver, right kidney, in this order, and not liver"),
        ("inference", {"prompts": "boxes.csv"}, "segments classes without prompts; leave prompts out"),
    ],
)
def test_what_does_not_fit_an_adapter_with_classes_is_told(
    run: Run, phantom: Path, classes: Path, tmp_path: Path, name: str, options: dict, said: str
) -> None:
    options = {"dataset_dir": str(phantom), "adapter_dir": str(classes / "best"), "output_dir": str(tmp_path)} | options
    with pytest.raises(RuntimeError) as caught:
        run(name, **options)
    assert re.search(re.escape(said), str(root_cause(caught.value)))


def test_another_head_is_refused(run: Run, phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        run("train", "train", head="class", dataset_dir=str(phantom), output_dir=str(tmp_path))
    assert "head is 'class'; boxes or classes is expected." in str(root_cause(caught.value))
