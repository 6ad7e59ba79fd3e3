import subprocess
import sys
import threading
import time

import pytest
import torch

from monai_cobot.inferers import AdapterShelf, Cancelled, CancelToken, EmbeddingCache
from monai_cobot.inferers.slice_encoder import SliceEncoder
from tests.inferers.conftest import VolumeIn

PRESET = "window:-100,200"


class CountingCache(EmbeddingCache):
    """Remembers what was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[str] = []

    def put(self, source: str, digest: str, embedding: torch.Tensor) -> None:
        self.computed.append(digest)
        super().put(source, digest, embedding)


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_an_embedding_is_the_networks_own_and_computed_once(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    cache = CountingCache()
    encoder = SliceEncoder(volume_in("LPS"), cache)
    with torch.no_grad():
        expected = shelf.base.network.encode(encoder.image(PRESET, "coronal", 7))
    for _ in range(2):
        assert torch.equal(encoder.embedding(shelf.base, PRESET, "coronal", 7, CancelToken()), expected)
    assert len(cache.computed) == 1


def test_slices_are_encoded_ahead_in_the_background(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    cache = CountingCache()
    encoder = SliceEncoder(volume_in("LPS"), cache)
    encoder.prefetch(shelf.base, PRESET, "axial", [3, 4])
    until(lambda: len(cache.computed) == 2)
    ahead = encoder.embedding(shelf.base, PRESET, "axial", 4, CancelToken())
    assert len(cache.computed) == 2
    with torch.no_grad():
        assert torch.equal(ahead, shelf.base.network.encode(encoder.image(PRESET, "axial", 4)))
    encoder.close()


def test_a_slice_that_is_at_work_in_the_background_is_waited_for(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    cache = CountingCache()
    encoder = SliceEncoder(volume_in("LPS"), cache)
    encoder.prefetch(shelf.base, PRESET, "axial", range(20))
    until(lambda: encoder._in_work)
    for index in range(20):
        encoder.embedding(shelf.base, PRESET, "axial", index, CancelToken())
    encoder.close()
    assert len(cache.computed) == len(set(cache.computed)) == 20


def test_the_background_waits_for_whoever_works_on_another_volume(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    cache = CountingCache()
    background, foreground = SliceEncoder(volume_in("LPS"), cache), SliceEncoder(volume_in("LPS"), EmbeddingCache())
    with foreground._as_caller():
        background.prefetch(shelf.base, PRESET, "axial", range(3))
        time.sleep(0.3)
        assert cache.computed == []
    until(lambda: len(cache.computed) == 3)
    background.close()


def test_closing_stops_the_background_thread_at_once(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    cache = CountingCache()
    encoder = SliceEncoder(volume_in("LPS"), cache)
    encoder.prefetch(shelf.base, PRESET, "axial", range(20))
    encoder.close()
    assert len(cache.computed) < 20
    assert not any(thread.name == "cobot-prefetch" for thread in threading.enumerate())
    encoder.prefetch(shelf.base, PRESET, "axial", range(20))
    assert encoder._thread is not None
    assert not encoder._thread.is_alive()


def test_a_program_that_ends_without_closing_ends_as_any_other() -> None:
    code = (
        "import numpy as np\n"
        "from monai_cobot.data import volume_from_array\n"
        "from monai_cobot.inferers import AdapterShelf, EmbeddingCache\n"
        "from monai_cobot.inferers.slice_encoder import SliceEncoder\n"
        "from monai_cobot.networks import build_sam\n"
        "volume = volume_from_array(np.random.default_rng(0).normal(size=(64, 64, 40)), np.eye(4), 'noise')\n"
        "shelf = AdapterShelf(build_sam('vit_mini'))\n"
        "SliceEncoder(volume, EmbeddingCache()).prefetch(shelf.base, 'mr', 'axial', range(40))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr


def test_encoding_can_be_cancelled_between_two_blocks(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    class SecondLook(CancelToken):
        def check(self) -> None:
            super().check()
            self.cancel()

    cache = CountingCache()
    encoder = SliceEncoder(volume_in("LPS"), cache)
    with pytest.raises(Cancelled):
        encoder.embedding(shelf.base, PRESET, "axial", 3, SecondLook())
    assert cache.computed == []
    encoder.embedding(shelf.base, PRESET, "axial", 3, CancelToken())
