"""The pretraining command, for some seconds."""

import json
from pathlib import Path

import pretraining.training as training
import pytest
import torch
from pretrain_mini import main
from pretraining.network import ResizableSam, initialise
from pretraining.prompts import Targets
from pretraining.scenes import ALL_LEVELS, Difficulty
from pretraining.training import Settings, Stage, Trainer

from monai_cobot.networks import build_sam, load_checkpoint

STAGES = (Stage((32,), 2, 300), Stage((64,), 2, 100))


def new_trainer(folder: Path, stages: tuple[Stage, ...] = STAGES, seed: int = 0, begin: int = 0) -> Trainer:
    sam = build_sam("vit_mini")
    initialise(sam, seed)
    return Trainer(ResizableSam(sam), Settings(folder, stages, begin, 1e-3, seed, torch.device("cpu")))


@pytest.fixture(autouse=True)
def few_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores on eight images."""
    monkeypatch.setattr(training, "HELD_OUT", 8)


def test_the_command_leaves_weights_that_build_sam_reads_and_a_log_and_continues(tmp_path: Path) -> None:
    command = ["--device", "cpu", "--folder", str(tmp_path), "--stages"]
    main([*command, "64:2:2"])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    exported = load_checkpoint(tmp_path / "vit_mini.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.float16}
    assert (tmp_path / "vit_mini.safetensors").stat().st_size < 15e6
    build_sam("vit_mini", tmp_path / "vit_mini.safetensors")
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert line["step"] == 2
    assert 0 <= line["dice"] <= 1
    assert 0.5 < line["ellipse_dice"] < 1

    main([*command, "64:2:2", "32:4:1"])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
    assert json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])["size"] == 32


def test_training_goes_on_from_given_weights_whose_steps_count_as_done(tmp_path: Path) -> None:
    still = ["--device", "cpu", "--learning-rate", "0", "--stages"]
    main([*still, "64:2:1", "--folder", str(tmp_path / "first"), "--seed", "3"])
    given = tmp_path / "first" / "vit_mini.safetensors"
    main([*still, "64:2:1", "32:2:1", "--folder", str(tmp_path / "second"), "--init", str(given)])
    first, second = load_checkpoint(given), load_checkpoint(tmp_path / "second" / "vit_mini.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    (line,) = map(json.loads, (tmp_path / "second" / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert (line["step"], line["size"]) == (2, 32)


@pytest.mark.parametrize("stage", ["64", "64:16", "64:16:0", "64:-1:5", "large:16:4", "64:16:4:1"])
def test_what_is_no_stage_is_refused(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--folder", str(tmp_path), "--stages", stage])
    assert "SIZES:BATCH:STEPS" in capsys.readouterr().err


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    through = new_trainer(tmp_path / "through")
    losses = [through._train_step() for _ in range(3)]
    first = new_trainer(tmp_path / "in two")
    first._train_step()
    first._save()
    first._train_step()
    first._log(loss=1.0)  # of a step that is lost with the process
    second = new_trainer(tmp_path / "in two")
    log = (tmp_path / "in two" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == [1]
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


def test_the_last_stage_ends_where_held_out_images_gain_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 0)  # a score after each step
    course = [0.9, 0.9, 0.5] + [0.6] * training.PATIENCE + [0.7] + [0.7 + training.LEAST_GAIN / 2] * 99
    scores = iter(course)
    monkeypatch.setattr(Trainer, "_score", lambda _: {"dice": next(scores), "ellipse_dice": 0.0})
    trainer = new_trainer(tmp_path, (Stage((32,), 1, 2), Stage((32,), 1, 100)))
    trainer.run()
    assert trainer.step == course.index(0.7) + 1 + training.PATIENCE
    again = new_trainer(tmp_path, trainer.settings.stages)
    again.run()
    assert again.step == trainer.step


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
    trainer = new_trainer(tmp_path, (Stage((32,), 2, 1500), Stage((64,), 2, 500)))
    assert trainer._learning_rate == pytest.approx(1e-3 / training.WARM_UP_STEPS)
    for trainer.step in (training.WARM_UP_STEPS, 1000):
        assert trainer._learning_rate == pytest.approx(1e-3)
    trainer.step = 2000
    assert trainer._learning_rate == pytest.approx(1e-5)
    later = new_trainer(tmp_path / "later", trainer.settings.stages, begin=600)
    assert later._learning_rate == pytest.approx(1e-3 / training.WARM_UP_STEPS)


def test_images_are_easy_and_their_objects_bright_until_both_change_little_by_little(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path)
    found = []
    for trainer.step in (0, training.BRIGHT_STEPS, training.MIXED_STEPS, training.HARD_STEPS, 10**6):
        found.append(trainer._difficulty)
    first, bright, mixed, hard, last = found
    assert first == bright == Difficulty(hardest=0, darker=0)
    assert 0 < mixed.hardest < 1
    assert mixed.darker == 0.5
    assert hard == last == ALL_LEVELS


def test_one_stage_follows_another(tmp_path: Path) -> None:
    first, second = stages = Stage((32,), 2, 3), Stage((64,), 1, 2)
    trainer = new_trainer(tmp_path, stages)
    found = []
    for trainer.step in (0, 2, 3, 4, 5):
        found.append(trainer._stage)
    assert found == [first, first, second, second, second]


def test_sizes_of_a_stage_take_turns_with_as_many_pixels_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage.parse("32,64:1:4")
    assert [stage.images_of(step) for step in range(3)] == [(4, 32), (1, 64), (4, 32)]
    trainer = new_trainer(tmp_path, (stage,))
    drawn = []
    draw = trainer._draw

    def draw_and_note(count: int, size: int, difficulty: Difficulty) -> tuple[torch.Tensor, Targets]:
        drawn.append((count, size))
        return draw(count, size, difficulty)

    monkeypatch.setattr(trainer, "_draw", draw_and_note)
    trainer._train_step()
    trainer._train_step()
    assert drawn == [(4, 32), (1, 64)]


def test_a_gradient_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path)
    with torch.no_grad():
        trainer.network.sam.image_encoder.pos_embed.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer._train_step()
