"""A training goes on from a whole checkpoint of its own, and says what is wrong with another."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from monai_cobot.handlers import TrainingCheckpoint

Train = Callable[..., nn.Linear]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains a layer on four samples, two steps an epoch."""

    def run(epochs: int, settings: dict[str, object] | None = None, resume: bool = False) -> nn.Linear:
        torch.manual_seed(0)
        network = nn.Linear(2, 1)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        samples = [{"image": torch.full((2, 2), float(n)), "label": torch.ones(2, 1)} for n in (1, 2)]
        checkpoint = TrainingCheckpoint(
            tmp_path / "checkpoint.pt", {"network": network, "optimizer": optimizer}, settings or {"rate": 1}, resume
        )
        SupervisedTrainer(
            torch.device("cpu"),
            epochs,
            samples,
            network,
            optimizer,
            nn.MSELoss(),
            decollate=False,
            train_handlers=[checkpoint],
        ).run()
        return network

    return run


def test_a_resumed_training_ends_as_one_that_was_not_interrupted(train: Train) -> None:
    whole = train(4)
    train(1)
    assert torch.equal(train(4, resume=True).weight, whole.weight)


def test_without_a_checkpoint_a_training_begins_anew(train: Train, tmp_path: Path) -> None:
    whole = train(1)
    (tmp_path / "checkpoint.pt").unlink()
    assert torch.equal(train(1, resume=True).weight, whole.weight)


def test_other_options_than_before_are_named(train: Train) -> None:
    train(1, {"method": "lora", "rate": 0.1, "labels": list(range(100))})
    with pytest.raises(ValueError, match=r"method was 'lora' and is 'adaptformer'; rate was 0\.1 and is 1; labels was"):
        train(2, {"method": "adaptformer", "rate": 1}, resume=True)


def test_the_same_labels_in_another_order_are_other_classes(train: Train) -> None:
    train(1, {"label": {"liver": 1, "spleen": 2}})
    with pytest.raises(ValueError, match=r"label was \{'liver': 1, 'spleen': 2\} and is \{'spleen': 2, 'liver': 1\}"):
        train(2, {"label": {"spleen": 2, "liver": 1}}, resume=True)


def test_fewer_epochs_than_are_completed_are_refused(train: Train) -> None:
    train(2)
    with pytest.raises(ValueError, match="has completed 2 epochs, more than the 1 that are wanted"):
        train(1, resume=True)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [_cut, lambda content: b"", lambda content: b"something else"])
def test_a_damaged_checkpoint_is_named_and_left_as_it_is(train: Train, tmp_path: Path, damage: Callable) -> None:
    train(1)
    path = tmp_path / "checkpoint.pt"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: the checkpoint cannot be read"):
        train(2, resume=True)
    assert path.read_bytes() == damaged


def test_altered_weights_are_noticed(train: Train, tmp_path: Path) -> None:
    weights = train(1).weight.detach().numpy().tobytes()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes().replace(weights, bytes(len(weights))))
    with pytest.raises(ValueError, match="cannot be read"):
        train(2, resume=True)


def test_the_checkpoint_of_something_else_is_refused(train: Train, tmp_path: Path) -> None:
    torch.save({"network": torch.zeros(2)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="no checkpoint of such a training"):
        train(2, resume=True)
