"""What every epoch reached."""

from pathlib import Path

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_cobot.handlers import CaseDice, TrainingCheckpoint, TrainingHistory
from monai_cobot.handlers.history import _zero


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("cuda", torch.float64), ("mps", torch.float32)])
def test_losses_are_summed_as_precisely_as_the_device_can(device: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():  # of any device on any computer
        zero = _zero(torch.device(device))
    assert (zero.dtype, zero.device.type) == (dtype, device)


def epochs_of(checkpoint: Path, patience: int | None, resume: bool = False) -> list[int]:
    """The epochs in the history of a training that never gains, of at most five."""
    device, layer = torch.device("cpu"), nn.Linear(2, 2)
    batch = {"image": torch.ones(1, 1, 1, 2), "label": torch.ones(1, 1, 1, 2), "case": ["a"], "label_name": ["liver"]}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    dice = CaseDice()
    evaluator = SupervisedEvaluator(device, [batch], layer, key_val_metric={"dice": dice}, decollate=False)
    history = TrainingHistory(evaluator, dice, optimizer, patience=patience, at_start=False)
    SupervisedTrainer(
        device,
        5,
        [batch],
        layer,
        optimizer,
        nn.MSELoss(),
        decollate=False,
        train_handlers=[history, TrainingCheckpoint(checkpoint, {"history": history}, resume=resume)],
    ).run()
    return [record["epoch"] for record in history.epochs]


def test_a_training_that_stopped_without_gain_is_at_its_end_also_when_it_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    assert epochs_of(path, patience=2) == [1, 2, 3]
    assert epochs_of(path, patience=2, resume=True) == [1, 2, 3]
    assert epochs_of(path, patience=None, resume=True) == [1, 2, 3, 4, 5]
