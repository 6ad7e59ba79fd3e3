"""A progress bar over a whole training, with the time left, and a line for every epoch."""

from __future__ import annotations

from ignite.engine import Events
from monai.engines import Workflow
from tqdm import tqdm

from monai_cobot.handlers.history import TrainingHistory


class TrainingProgress:
    """Shows how far a training is and how long it will still take; ignite's own bar knows one epoch at a time.

    Where the output is no terminal, only the lines appear. Attach it to the trainer after the :class:`TrainingHistory`.

    Args:
        history: knows what every epoch reached.
    """

    def __init__(self, history: TrainingHistory) -> None:
        self.history = history
        self._bar: tqdm | None = None

    def attach(self, engine: Workflow) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def close(self, *_: Workflow) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, engine: Workflow) -> None:
        if self._bar is not None:
            return
        length = engine.state.epoch_length
        self._bar = tqdm(
            total=engine.state.max_epochs * length,
            initial=(engine.state.epoch - 1) * length,
            desc="training",
            unit="step",
            disable=None,
        )
        if engine.state.epoch == 1 and len(self.history.before):
            tqdm.write(f"before training: validation DSC {self.history.before.mean():.3f}")
        elif engine.state.epoch > 1:
            tqdm.write(f"resumed after epoch {engine.state.epoch - 1}")

    def _advance(self, engine: Workflow) -> None:
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix(loss=f"{engine.state.output['loss'].item():.3f}", refresh=False)

    def _tell(self, engine: Workflow) -> None:
        record, best = self.history.epochs[-1], self.history.best_dice()
        parts = [f"epoch {record['epoch']}/{engine.state.max_epochs}", f"loss {record['loss']:.4f}"]
        if record["dice"] is not None and best is not None:
            parts.append(f"validation DSC {self.history.dice.scores.mean():.3f} (best {best:.3f})")
        tqdm.write(", ".join(parts))
