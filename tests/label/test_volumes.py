"""The volumes that a server keeps open."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_cobot.inferers import AdapterShelf, EmbeddingCache
from monai_cobot.label.volumes import OpenVolumes, identity

PRESET = "window:-100,200"


@pytest.fixture
def paths(balls: Callable[..., Path], tmp_path: Path) -> list[Path]:
    studies = balls(tmp_path / "studies", 2)
    return [studies / f"ball_{number}.nii.gz" for number in range(2)]


def test_a_volume_is_read_once_until_too_many_others_were_asked_about(paths: list[Path], shelf: AdapterShelf) -> None:
    volumes = OpenVolumes(EmbeddingCache(), most=1, look_ahead=False)
    first = volumes.session(paths[0], shelf.base, PRESET)
    assert volumes.session(paths[0], shelf.base, PRESET) is first
    volumes.session(paths[1], shelf.base, PRESET)
    again = volumes.session(paths[0], shelf.base, PRESET)
    assert again is not first
    assert again.volume is not first.volume


def test_who_waits_for_a_volume_that_is_closed_meanwhile_gets_one_that_is_open(
    paths: list[Path], shelf: AdapterShelf
) -> None:
    volumes = OpenVolumes(EmbeddingCache(), most=1, look_ahead=False)
    volumes.session(paths[0], shelf.base, PRESET)
    opened = volumes._opened[identity(paths[0])]
    found = []
    waiting = threading.Thread(target=lambda: found.append(volumes.session(paths[0], shelf.base, PRESET)))
    with opened.lock:
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        volumes._opened.pop(identity(paths[0])).closed = True
    waiting.join(60)
    assert found[0] not in opened.sessions.values()
    assert found[0] in volumes._opened[identity(paths[0])].sessions.values()
