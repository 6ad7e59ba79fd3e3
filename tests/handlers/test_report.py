"""What is said at the end of a training, also of one that was interrupted."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from monai_cobot.data import Case, MaskFile, SliceDataset
from monai_cobot.handlers import AdapterSaver, CaseDice, TrainingHistory, TrainingReport
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import adapt
from tests.data.conftest import case_arrays


@pytest.mark.parametrize(
    ("stopped_in", "said"), [(1, "No epoch was completed; nothing was saved."), (2, "No epoch was validated; ")]
)
def test_a_training_that_is_stopped_before_a_validation_says_what_it_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stopped_in: int, said: str
) -> None:
    files = [tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"]
    for path, array in zip(files, case_arrays(), strict=True):
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 2, 1])), path)
    case = Case("one", files[0], (MaskFile(files[1]),), "one")
    dataset = SliceDataset([case], {"block": 1}, "ct_abdomen", progress=False)
    adapter = adapt(build_sam("vit_mini", image_size=64), "decoder_only")
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    dice = CaseDice()
    evaluator = SupervisedEvaluator(torch.device("cpu"), [], layer, key_val_metric={"dice": dice}, decollate=False)
    history = TrainingHistory(evaluator, dice, optimizer, interval=5, at_start=False)
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        9,
        [{"image": torch.ones(2, 2), "label": torch.ones(2, 1)}],
        layer,
        optimizer,
        nn.MSELoss(),
        decollate=False,
        train_handlers=[
            history,
            AdapterSaver(adapter, history, tmp_path / "out"),
            TrainingReport(history, PromptableSam(adapter.sam), adapter, dataset, tmp_path / "out", "blocks"),
        ],
    )

    def interrupt() -> None:
        raise KeyboardInterrupt

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stopped_in), interrupt)
    with pytest.raises(SystemExit):
        trainer.run()
    printed = capsys.readouterr().out
    assert said in printed
    assert (str(tmp_path / "out" / "last") in printed) == (tmp_path / "out" / "last").exists() == (stopped_in > 1)
