"""Epochs that do not depend on what was before them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import Workflow

from monai_cobot.processes import are_joined


class EpochSeed:
    """Begin every epoch with a seed of its own, so that a resumed training computes what an uninterrupted one would.

    Without it the random numbers of dropout would depend on all epochs before. (Those of the samples are seeded by the
    data set and its sampler.)

    Args:
        seed: of the training.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Workflow) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if are_joined() else (0, 1)
        torch.manual_seed(self.seed + engine.state.epoch * world_size + rank)
