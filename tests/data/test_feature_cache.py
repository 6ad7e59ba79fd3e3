import errno
import logging
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monai_cobot.data import FeatureCache, image_digest
from monai_cobot.data.feature_cache import delete_features

DIGESTS = [f"{number:032x}" for number in range(100)]
KILOBYTE = 1e-6  # in GB


def features(number: int, values: int = 1000) -> Tensor:
    return torch.randn(10, values // 10, generator=torch.Generator().manual_seed(number))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_features_come_back_bit_for_bit_also_in_another_process_object(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "vit").put(DIGESTS[0], features(0))
    cache = FeatureCache(tmp_path, "vit")
    found = cache.get(DIGESTS[0])
    assert found is not None
    assert torch.equal(found, features(0))
    assert cache.get(DIGESTS[1]) is None


def test_bfloat16_halves_the_file_and_rounds(tmp_path: Path) -> None:
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        cache = FeatureCache(tmp_path / str(dtype), "vit", dtype=dtype)
        cache.put(DIGESTS[0], features(0))
        found = cache.get(DIGESTS[0])
        assert found is not None
        assert torch.equal(found, features(0).to(dtype))
        sizes.append(files(cache.folder)[0].stat().st_size)
    assert sizes[0] - sizes[1] >= 1990


def test_features_of_other_weights_are_others(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "vit_a").put(DIGESTS[0], features(0))
    assert FeatureCache(tmp_path, "vit_b").get(DIGESTS[0]) is None


@pytest.mark.parametrize("damage", ["a changed value", "a cut end", "no content", "another entry", "another source"])
def test_a_damaged_or_misplaced_entry_is_noticed_and_counts_as_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = FeatureCache(tmp_path, "vit")
    cache.put(DIGESTS[0], features(0))
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "a changed value":
        content[-100] ^= 1
    elif damage == "a cut end":
        del content[-4:]
    elif damage == "no content":
        content.clear()
    else:
        other = FeatureCache(tmp_path / "other", "vit" if damage == "another entry" else "vit_h")
        other.put(DIGESTS[1 if damage == "another entry" else 0], features(0))
        content[:] = files(other.folder)[0].read_bytes()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert cache.get(DIGESTS[0]) is None
    assert str(path) in caplog.text
    assert not path.exists()
    cache.put(DIGESTS[0], features(0))
    found = cache.get(DIGESTS[0])
    assert found is not None
    assert torch.equal(found, features(0))


def test_the_folder_stays_below_its_bound_and_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "old weights", 100 * KILOBYTE).put(DIGESTS[0], features(0))
    cache = FeatureCache(tmp_path, "vit", 100 * KILOBYTE)
    for digest in DIGESTS[:80]:
        cache.put(digest, features(1))
        time.sleep(0.002)  # the time of a file is not finer than a few milliseconds everywhere
        cache.get(DIGESTS[0])
        assert sum(file.stat().st_size for file in files(tmp_path)) <= 100_000
    kept = [digest for digest in DIGESTS[:80] if cache.get(digest) is not None]
    assert kept[0] == DIGESTS[0]
    assert kept[1:] == DIGESTS[80 - len(kept) + 1 : 80]
    assert len(kept) > 15
    assert FeatureCache(tmp_path, "old weights").get(DIGESTS[0]) is None


FOREIGN = [
    "adapter_model.safetensors",
    f"{DIGESTS[7]}.safetensors",
    "lora/adapter_model.safetensors",
    "vit/00/adapter_model.safetensors",
    f"vit/ab/{DIGESTS[7]}.safetensors",
    f"vit/00/{DIGESTS[7]}.safetensors.bak",
    f"vit/00/{DIGESTS[7]}.safetensors/model.safetensors",
    f"vit/00/kept/{DIGESTS[7]}.safetensors",
    f"mine/vit/00/{DIGESTS[7]}.safetensors",
]


def put_foreign_files(folder: Path) -> list[Path]:
    """50 kilobytes each, unused for longest."""
    paths = [folder / name for name in FOREIGN]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(50_000))
        os.utime(path, (0, 0))
    return paths


def test_what_others_keep_in_the_folder_neither_counts_nor_goes(tmp_path: Path) -> None:
    foreign = put_foreign_files(tmp_path)
    cache = FeatureCache(tmp_path, "vit", 100 * KILOBYTE)
    for digest in DIGESTS[10:30]:
        cache.put(digest, features(1))
    assert all(cache.get(digest) is not None for digest in DIGESTS[10:30]), "there is room for them"
    for digest in DIGESTS[30:90]:
        cache.put(digest, features(1))
    assert cache.get(DIGESTS[10]) is None
    assert all(path.stat().st_size == 50_000 for path in foreign)


def test_what_a_killed_process_left_half_written_goes_too(tmp_path: Path) -> None:
    left = tmp_path / "vit" / "00" / f".{DIGESTS[0]}.safetensors.k3j2h1" / f"{DIGESTS[0]}.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(50_000))
    os.utime(left, (0, 0))
    cache = FeatureCache(tmp_path, "vit", 60 * KILOBYTE)
    for digest in DIGESTS[1:5]:
        cache.put(digest, features(1))
    assert not left.exists()
    assert all(cache.get(digest) is not None for digest in DIGESTS[1:5])


def test_features_of_all_sources_are_deleted_and_nothing_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    for source in ("vit", "old weights"):
        FeatureCache(folder, source).put(DIGESTS[0], features(0))
    delete_features(folder)
    assert not folder.exists()
    assert tmp_path.exists()
    foreign = put_foreign_files(folder)
    for source in ("vit", "old weights"):
        FeatureCache(folder, source).put(DIGESTS[0], features(0))
    delete_features(folder)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(foreign)
    assert not (folder / "old weights").exists()


def test_images_that_do_not_all_fit_are_found_in_every_epoch_as_far_as_they_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FeatureCache(tmp_path, "old weights").put(DIGESTS[0], features(0))
    (entry,) = files(tmp_path)
    cache = FeatureCache(tmp_path, "vit", 10 * entry.stat().st_size / 1e9, keep_used=True)
    hits = []
    for order in (DIGESTS[:20], DIGESTS[19::-1], DIGESTS[:20]):
        hits.append(0)
        for digest in order:
            if cache.get(digest) is None:
                cache.put(digest, features(1))
            else:
                hits[-1] += 1
    assert hits == [0, 10, 10]
    assert not entry.exists()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "feature_cache_gb" in caplog.text


def test_what_another_process_of_the_run_uses_is_kept_too(tmp_path: Path) -> None:
    size = 10 * KILOBYTE
    one, other = (FeatureCache(tmp_path, "vit", size, keep_used=True) for _ in range(2))
    time.sleep(0.02)  # the time of a file is not finer than a few milliseconds everywhere
    one.put(DIGESTS[0], features(0))
    one.put(DIGESTS[1], features(1))
    other.put(DIGESTS[2], features(2))
    assert [one.get(digest) is not None for digest in DIGESTS[:3]] == [True, True, False]


def test_an_image_larger_than_the_bound_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FeatureCache(tmp_path, "vit", KILOBYTE)
    cache.put(DIGESTS[0], features(0))
    assert not files(tmp_path)
    assert "are not kept" in caplog.text


def test_a_full_disk_is_a_warning_and_what_is_there_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(tmp_path, "vit")
    cache.put(DIGESTS[0], features(0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.put(DIGESTS[1], features(1))
    cache.put(DIGESTS[2], features(2))
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert cache.get(DIGESTS[0]) is not None
    assert cache.get(DIGESTS[1]) is None
    assert len(list(tmp_path.rglob("*"))) == 3  # source, first two digits, the one file: nothing half-written


def test_the_folder_may_be_deleted_at_any_time(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features", "vit")
    cache.put(DIGESTS[0], features(0))
    held = cache.get(DIGESTS[0])
    shutil.rmtree(tmp_path / "features")
    assert held is not None
    assert torch.equal(held, features(0))
    assert cache.get(DIGESTS[0]) is None
    cache.put(DIGESTS[0], features(0))
    assert cache.get(DIGESTS[0]) is not None


def use(folder: Path) -> int:
    """Puts and gets in a process of its own; how often what came back was wrong."""
    cache = FeatureCache(folder, "vit", 60 * KILOBYTE)
    wrong = 0
    for _ in range(4):
        for number in range(30):
            found = cache.get(DIGESTS[number])
            if found is None:
                cache.put(DIGESTS[number], features(number))
            else:
                wrong += not torch.equal(found, features(number))
    return wrong


def test_several_processes_share_a_folder_also_while_it_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        futures = [pool.submit(use, tmp_path) for _ in range(2)]
        assert [future.result(timeout=60) for future in futures] == [0, 0]
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 60_000 * (1 + 1 / 16)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(("options", "message"), [({"max_gb": 0}, "0 GB"), ({"dtype": torch.float16}, "float16")])
def test_a_cache_that_cannot_be_is_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureCache(tmp_path, "vit", **options)


def test_an_image_is_named_by_its_values_type_and_shape() -> None:
    image = torch.rand(1, 6, 4)
    assert image_digest(image) == image_digest(image.clone())
    changed = image.clone()
    changed[0, 5, 3] += 1e-7 + changed[0, 5, 3] * 1e-6
    others = [changed, image.double(), image.reshape(1, 4, 6), image.transpose(1, 2)]
    assert len({image_digest(other) for other in (image, *others)}) == 5
