"""The course of a training: what was reached before it, in each epoch, and at best."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import Evaluator, Workflow
from torch.optim import Optimizer

from monai_cobot.handlers.case_dice import CaseDice
from monai_cobot.processes import are_joined
from monai_cobot.reports import CaseScores, EpochRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


def write_scores(engine: Workflow, writer: SummaryWriter) -> None:
    """Write the metrics of a validation to TensorBoard, those before training as of epoch 0."""
    for name, value in engine.state.metrics.items():
        writer.add_scalar(name, value, engine.state.trained_epochs)


class TrainingHistory:
    """Validates before training and after epochs, keeps what came out, and stops a training that no longer gains.

    Attach it to the trainer before handlers that read it.

    Args:
        evaluator: validates; its key metric is ``dice``.
        dice: the evaluator's metric.
        optimizer: the learning rate of its first parameter group is recorded.
        interval: validate after every so many epochs, and after the last.
        patience: stop when the validation DSC has not risen for so many validations; None to go on to the end.
        at_start: whether it is validated before training too.

    Attributes:
        epochs: one record an epoch, epoch 0 before training.
        before: DSC of each validation case before training; empty where that was not validated.
        best: DSC of each validation case after the best epoch; None before the first epoch is validated.
        best_epoch: number of that epoch; 0 before the first epoch is validated.
        seconds: of training so far, without validation.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        dice: CaseDice,
        optimizer: Optimizer,
        interval: int = 1,
        patience: int | None = None,
        at_start: bool = True,
    ) -> None:
        self.evaluator = evaluator
        self.dice = dice
        self.optimizer = optimizer
        self.interval = interval
        self.patience = patience
        self.at_start = at_start
        self.epochs: list[EpochRecord] = []
        self.before = CaseScores()
        self.best: CaseScores | None = None
        self.best_epoch = 0
        self.validations_without_gain = 0
        self.seconds = 0.0

    def attach(self, engine: Workflow) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED(once=1), self._validate_before_training)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        return {
            "epochs": list(self.epochs),
            "before": _plain(self.before),
            "best": None if self.best is None else _plain(self.best),
            "best_epoch": self.best_epoch,
            "validations_without_gain": self.validations_without_gain,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.epochs = list(state["epochs"])
        self.before = _scores(state["before"])
        self.best = None if state["best"] is None else _scores(state["best"])
        self.best_epoch = state["best_epoch"]
        self.validations_without_gain = state["validations_without_gain"]
        self.seconds = state["seconds"]

    def best_dice(self) -> float | None:
        """Mean validation DSC after the best epoch, in [0, 1]; None before the first epoch is validated."""
        return None if self.best is None else self.best.mean()

    def _validate_before_training(self, engine: Workflow) -> None:
        if not self.at_start:
            return
        self._validate(after=0)
        self.before = self.dice.scores
        self.epochs.append({"epoch": 0, "loss": None, "dice": self.before.mean_by_label(), "learning_rate": None})

    def _validate(self, after: int) -> None:
        """Validate after so many epochs of training."""
        self.evaluator.state.trained_epochs = after
        self.evaluator.run(max(1, after))  # MONAI knows no epoch 0
        if not self.evaluator.state.epoch_length:
            # MONAI skips the run of a process that has no case, but the others wait for its part of the metric
            self.dice.reset()
            self.dice.compute()

    def _start_epoch(self, engine: Workflow) -> None:
        self._stop_without_gain(engine)  # again, where a training that had ended so is resumed
        self._started = time.perf_counter()
        self._loss = _zero(engine.state.device)

    def _add_loss(self, engine: Workflow) -> None:
        self._loss += engine.state.output["loss"].detach()

    def _finish_epoch(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        self.seconds += time.perf_counter() - self._started
        loss = self._loss / engine.state.epoch_length
        if are_joined():
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        if not loss.isfinite():
            raise FloatingPointError(
                f"The training loss became {loss.item()} in epoch {epoch}: the learning rate is too high. "
                "Lower learning_rate and start again; the adapters of the epochs before are saved."
            )
        learning_rate = self.optimizer.param_groups[0]["lr"]
        record: EpochRecord = {"epoch": epoch, "loss": loss.item(), "dice": None, "learning_rate": learning_rate}
        if epoch % self.interval == 0 or epoch == engine.state.max_epochs:
            self._validate(epoch)
            record["dice"] = self.dice.scores.mean_by_label()
            self._compare(epoch, engine)
        self.epochs.append(record)

    def _compare(self, epoch: int, engine: Workflow) -> None:
        best = self.best_dice()
        if best is None or self.dice.scores.mean() > best:
            self.best, self.best_epoch, self.validations_without_gain = self.dice.scores, epoch, 0
            return
        self.validations_without_gain += 1
        self._stop_without_gain(engine)

    def _stop_without_gain(self, engine: Workflow) -> None:
        if self.patience is not None and self.validations_without_gain >= self.patience:
            logger.warning("no gain in %d validations: training stops", self.validations_without_gain)
            engine.terminate()


def _zero(device: torch.device) -> torch.Tensor:
    """To add to, as precise as the device can: MPS has no float64."""
    return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def _plain(scores: CaseScores) -> list[tuple[str, str, float]]:
    return list(scores)


def _scores(plain: list[tuple[str, str, float]]) -> CaseScores:
    scores = CaseScores()
    for case, label, dice in plain:
        scores.add(case, label, dice)
    return scores
