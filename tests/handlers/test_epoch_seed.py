"""Epochs have seeds of their own, with one process and with several."""

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from monai_cobot.handlers import EpochSeed


def test_every_epoch_has_its_seed_also_where_torch_is_built_without_its_distributed_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dist, "is_available", lambda: False)
    monkeypatch.delattr(dist, "is_initialized")
    drawn = []
    engine = Engine(lambda engine, batch: drawn.append(torch.rand(1).item()))
    engine.add_event_handler(Events.EPOCH_STARTED, EpochSeed(3))
    engine.run([0], max_epochs=2)
    torch.manual_seed(5)
    assert drawn[1] == torch.rand(1).item() != drawn[0]
