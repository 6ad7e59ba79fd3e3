"""The pretraining command, for some seconds."""

import json
from pathlib import Path

import pretraining.training as training
import pytest
import torch
from pretrain_mini import main
from pretraining.network import ResizableSam, initialise
from pretraining.training import Settings, Trainer

from monai_cobot.networks import build_sam, load_checkpoint

KEEP = ["--batch", "2", "--sizes", "64", "--device", "cpu"]


def new_trainer(folder: Path, minutes: float = 1, seed: int = 0) -> Trainer:
    sam = build_sam("vit_mini")
    initialise(sam, seed)
    return Trainer(ResizableSam(sam), Settings(folder, minutes, (32, 64), 2, 1e-3, seed, torch.device("cpu")))


@pytest.fixture(autouse=True)
def few_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores on eight images."""
    monkeypatch.setattr(training, "HELD_OUT", 8)


def test_the_command_leaves_weights_that_build_sam_reads_and_a_log_and_continues(tmp_path: Path) -> None:
    main([*KEEP, "--minutes", "0.02", "--folder", str(tmp_path)])
    steps = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]
    assert steps > 0
    exported = load_checkpoint(tmp_path / "vit_mini.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.float16}
    assert (tmp_path / "vit_mini.safetensors").stat().st_size < 15e6
    build_sam("vit_mini", tmp_path / "vit_mini.safetensors")
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert line["step"] == steps
    assert 0 <= line["dice"] <= 1
    assert 0.5 < line["ellipse_dice"] < 1

    main([*KEEP, "--minutes", "0.04", "--folder", str(tmp_path)])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] > steps
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    still = [*KEEP, "--minutes", "0.001", "--learning-rate", "0"]
    main([*still, "--folder", str(tmp_path / "first"), "--seed", "3"])
    given = tmp_path / "first" / "vit_mini.safetensors"
    main([*still, "--folder", str(tmp_path / "second"), "--init", str(given)])
    first, second = load_checkpoint(given), load_checkpoint(tmp_path / "second" / "vit_mini.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_a_time_that_is_not_positive_is_refused(minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([*KEEP, "--minutes", minutes, "--folder", str(tmp_path)])
    assert "--minutes" in capsys.readouterr().err


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    through = new_trainer(tmp_path / "through")
    losses = [through._train_step() for _ in range(3)]
    first = new_trainer(tmp_path / "in two")
    first._train_step()
    first._save()
    second = new_trainer(tmp_path / "in two")
    assert [second._train_step() for _ in range(2)] == losses[1:]
    for ours, theirs in zip(second.average, through.average, strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_of_the_same_images_falls(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path)
    losses = []
    for _ in range(12):
        trainer.step = training.WARM_UP_STEPS  # which draws the same images, past the warm-up
        losses.append(trainer._train_step())
    assert losses[-1] < 0.7 * losses[0]


def test_scoring_leaves_the_training_weights_as_they_were(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path)
    trainer._train_step()
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    trainer._score()
    assert all(torch.equal(before[name], p) for name, p in trainer.parameters.items())


def test_a_folder_of_another_seed_is_not_continued(tmp_path: Path) -> None:
    new_trainer(tmp_path)._save()
    with pytest.raises(ValueError, match=r"checkpoint\.pt was trained with seed 0, not 1"):
        new_trainer(tmp_path, seed=1)


def test_the_learning_rate_warms_up_then_stays_then_falls_to_a_hundredth(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, minutes=10)
    assert trainer._learning_rate == pytest.approx(1e-3 / training.WARM_UP_STEPS)
    trainer.step = 10_000
    assert trainer._learning_rate == pytest.approx(1e-3)
    trainer.seconds = 300
    assert trainer._learning_rate == pytest.approx(1e-3)
    trainer.seconds = 600
    assert trainer._learning_rate == pytest.approx(1e-5)


def test_every_size_has_the_same_part_of_the_time(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, minutes=10)
    sizes = []
    for trainer.seconds in (0, 299, 301, 600, 700):
        sizes.append(trainer._size)
    assert sizes == [32, 32, 64, 64, 64]


def test_a_gradient_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path)
    with torch.no_grad():
        trainer.network.sam.image_encoder.pos_embed.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer._train_step()
