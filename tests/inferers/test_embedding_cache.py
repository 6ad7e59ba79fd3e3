import shutil
from pathlib import Path

import pytest
import torch

from monai_cobot.inferers import EmbeddingCache

DIGESTS = [f"{number:032x}" for number in range(30)]


def test_what_was_not_used_for_longest_leaves_memory_first() -> None:
    cache = EmbeddingCache(max_memory_gb=3 * 400e-9)
    for name in "abc":
        cache.put("sam", name, torch.full((100,), float(ord(name))))
    assert cache.get("sam", "a") is not None
    cache.put("sam", "d", torch.zeros(100))
    assert [name for name in "abcd" if cache.get("sam", name) is not None] == ["a", "c", "d"]


def test_an_embedding_that_is_too_large_for_memory_drives_no_other_out(tmp_path: Path) -> None:
    cache = EmbeddingCache(max_memory_gb=1000e-9, folder=tmp_path)
    cache.put("sam", "a", torch.zeros(100))
    cache.put("sam", "large", torch.zeros(1000))
    assert cache.get("sam", "large") is not None, "it is on disk"
    shutil.rmtree(tmp_path)
    assert [name for name in ("a", "large") if cache.get("sam", name) is not None] == ["a"]


def test_what_an_earlier_program_left_is_forgotten_too_but_nothing_that_is_not_an_embedding(tmp_path: Path) -> None:
    adapter = tmp_path / "lora" / "adapter_model.safetensors"
    adapter.parent.mkdir()
    adapter.touch()
    EmbeddingCache(folder=tmp_path).put("sam", DIGESTS[0], torch.zeros(3))
    cache = EmbeddingCache(folder=tmp_path)
    cache.clear()
    assert cache.get("sam", DIGESTS[0]) is None
    assert sorted(tmp_path.rglob("*")) == [adapter.parent, adapter]


def test_embeddings_of_other_weights_are_not_mixed_up() -> None:
    cache = EmbeddingCache()
    cache.put("one", "a", torch.zeros(3))
    assert cache.get("other", "a") is None


def test_the_folder_keeps_what_left_memory_and_serves_the_next_program(tmp_path: Path) -> None:
    cache = EmbeddingCache(max_memory_gb=400e-9, folder=tmp_path / "embeddings")
    embeddings = {name: torch.rand(1, 4, 5, 5) for name in DIGESTS[:2]}
    for name, embedding in embeddings.items():
        cache.put("sam", name, embedding)
    for reader in (cache, EmbeddingCache(folder=tmp_path / "embeddings")):
        for name, embedding in embeddings.items():
            found = reader.get("sam", name)
            assert found is not None
            assert torch.equal(found, embedding)
    cache.clear()
    assert cache.get("sam", DIGESTS[0]) is None
    assert not (tmp_path / "embeddings").exists()


def test_the_folder_stays_within_its_bound(tmp_path: Path) -> None:
    cache = EmbeddingCache(folder=tmp_path, max_disk_gb=10e-6)
    for digest in DIGESTS:
        cache.put("sam", digest, torch.rand(250))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 12_000


def test_a_cache_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="give no folder"):
        EmbeddingCache(max_disk_gb=0)
