"""Epochs have seeds of their own, with one process and with several."""

from itertools import product

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from monai_cobot.handlers import EpochSeed, epoch_seed


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


def test_every_process_has_a_seed_of_its_own_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_seed, "are_joined", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    engine = Engine(lambda engine, batch: None)
    seeds = set()
    for rank, epoch in product(range(3), range(1, 5)):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        engine.state.epoch = epoch
        EpochSeed(7)(engine)
        seeds.add(torch.initial_seed())
    assert len(seeds) == 12
