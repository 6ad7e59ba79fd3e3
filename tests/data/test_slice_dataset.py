import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd
from torch.utils.data import DataLoader

from monai_cobot.data import SliceDataset, Volume, cases, collate_slices, image_digest, open_dataset, read_volume
from monai_cobot.transforms import RandJitterBoxd, ResizeLongestSided, box_from_mask, scale_intensity, take_slice
from tests.data.conftest import Write, case_arrays

LABELS = {"block": 1, "pair": 2}


@pytest.fixture
def root(write_msd: Write) -> Path:
    return write_msd({f"case{n}": case_arrays(seed=n) for n in range(3)})


def dataset(root: Path, **options: object) -> SliceDataset:
    split = open_dataset("msd", root, validation_fraction=0.4)
    cases = sorted(split.training + split.validation, key=lambda case: case.name)
    options = {"labels": LABELS, "preset": "ct_abdomen", "min_foreground": 20, "progress": False} | options
    return SliceDataset(cases, **options)  # type: ignore[arg-type]


def test_a_sample_is_a_slice_a_label_and_its_box(root: Path) -> None:
    samples = dataset(root)
    image, labels = case_arrays(seed=1)
    assert len(samples) == 3 * 4 * 2  # cases, slices with foreground, labels
    assert samples.cases == ["case0", "case1", "case2"]
    sample = samples[11]  # case 1, slice 2, pair
    assert (sample["case"], sample["slice"], sample["label_name"]) == ("case1", 2, "pair")
    assert samples.case_of(11) == "case1"
    assert sample["image"].shape == (1, 30, 40)
    assert sample["image"].dtype == sample["label"].dtype == sample["box"].dtype == torch.float32
    assert torch.equal(sample["image"], scale_intensity(take_slice(image[None], "axial", 2), -160, 240))
    assert (sample["label"].numpy() == (take_slice(labels[None], "axial", 2) == 2)).all()
    assert torch.equal(sample["box"], box_from_mask(sample["label"]))


@pytest.mark.parametrize(("axis", "shape"), [("coronal", (6, 40)), ("sagittal", (6, 30))])
def test_other_axes_show_their_slices(root: Path, axis: str, shape: tuple[int, int]) -> None:
    samples = dataset(root, axis=axis, labels={"block": 1}, min_foreground=1)
    image, labels = case_arrays()
    sample = samples[3]
    assert sample["image"].shape == (1, *shape)
    assert torch.equal(sample["image"], scale_intensity(take_slice(image[None], axis, sample["slice"]), -160, 240))
    assert (sample["label"].numpy() == (take_slice(labels[None], axis, sample["slice"]) == 1)).all()


def test_small_slices_are_left_out_and_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        samples = dataset(root, min_foreground=100)  # the block has 240 pixels, the pair 60 + 25
    assert {samples[n]["label_name"] for n in range(len(samples))} == {"block"}
    assert [(skip.case, skip.label) for skip in samples.skipped] == [(f"case{n}", "pair") for n in range(3)]
    assert "min_foreground" in caplog.text
    assert "3 of 3 cases" in caplog.text


def test_each_component_can_be_a_sample(root: Path) -> None:
    samples = dataset(root, labels={"pair": 2}, components=True)
    assert len(samples) == 3 * 4 * 2
    areas = [int(samples[n]["label"].sum()) for n in range(4)]
    assert areas == [60, 25, 60, 25]
    assert torch.equal(samples[1]["box"], box_from_mask(samples[1]["label"]))
    assert len(dataset(root, labels={"pair": 2}, components=True, min_foreground=30)) == 3 * 4


def test_touching_corners_are_one_component(write_msd: Write) -> None:
    image, labels = case_arrays()
    labels[:] = 0
    labels[2:8, 2:8, 2] = 1
    labels[8:14, 8:14, 2] = 1
    root = write_msd({"a": (image, labels), "b": (image, labels)})
    assert len(dataset(root, labels={"block": 1}, components=True)) == 2


def test_bad_cases_are_skipped_with_a_reason_and_the_good_ones_kept(write_msd: Write, write_nifti: Write) -> None:
    arrays = {name: case_arrays() for name in ("good", "short", "nan", "flat", "four", "moved", "absent", "cut")}
    root = write_msd(arrays)
    image, labels = case_arrays()
    write_nifti("msd/labelsTr/short.nii.gz", labels[:-1])
    write_nifti("msd/imagesTr/nan.nii.gz", np.where(labels == 1, np.nan, image).astype(np.float32))
    write_nifti("msd/imagesTr/flat.nii.gz", np.full_like(image, 5))
    write_nifti("msd/imagesTr/four.nii.gz", np.stack([image] * 2, axis=-1))
    write_nifti("msd/labelsTr/moved.nii.gz", labels, np.diag([-1.0, -1, 3, 1]))
    (root / "imagesTr/absent.nii.gz").unlink()
    cut = root / "imagesTr/cut.nii.gz"
    cut.write_bytes(cut.read_bytes()[:2000])
    samples = dataset(root)
    assert samples.cases == ["good"]
    reasons = {skip.case: skip.reason for skip in samples.skipped}
    expected = {
        "short": "39 x 30 x 6",
        "nan": "NaN",
        "flat": "every voxel is 5",
        "four": "(40, 30, 6, 2)",
        "moved": "mm away",
        "absent": "no such file",
        "cut": "damaged",
    }
    assert set(reasons) == set(expected)
    for name, said in expected.items():
        assert said in reasons[name]
        assert f"{name}.nii.gz" in reasons[name]


def test_without_any_sample_the_error_says_why_and_which_labels_there_are(root: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)liver = 9; label values in the masks: 1, 2\..*absent in 3 of 3 cases"):
        dataset(root, labels={"liver": 9})
    with pytest.raises(ValueError, match="min_foreground"):
        dataset(root, min_foreground=10_000)


def test_options_that_make_no_sense_are_refused_at_once(root: Path) -> None:
    for options in ({"axis": "oblique"}, {"preset": "pet"}, {"labels": {}}, {"min_foreground": 0}):
        with pytest.raises(ValueError):  # noqa: PT011
            dataset(root, **options)


def boxes(samples: SliceDataset, workers: int = 0) -> torch.Tensor:
    loader = DataLoader(samples, batch_size=4, num_workers=workers)
    return torch.cat([batch["box"] for batch in loader])


def test_random_numbers_depend_on_seed_epoch_and_index_alone(root: Path) -> None:
    def made(seed: int, epoch: int, workers: int = 0) -> torch.Tensor:
        samples = dataset(root, seed=seed, transform=Compose([RandJitterBoxd(max_jitter=5), ResizeLongestSided(64)]))
        samples.set_epoch(epoch)
        return boxes(samples, workers)

    first = made(0, 0)
    assert torch.equal(first, made(0, 0, workers=2))
    assert not torch.equal(first, made(0, 1))
    assert not torch.equal(first, made(1, 0))
    samples = dataset(root, transform=Compose([RandJitterBoxd(max_jitter=5), ResizeLongestSided(64)]))
    backwards = [samples[n]["box"] for n in reversed(range(len(samples)))]
    assert torch.equal(first, torch.stack(backwards[::-1]))
    assert torch.equal(first[-1], samples[-1]["box"])


def test_workers_that_outlive_an_epoch_see_the_next_one(root: Path) -> None:
    samples = dataset(root, transform=Compose([RandJitterBoxd(max_jitter=5)]))
    loader = DataLoader(samples, batch_size=4, num_workers=1, persistent_workers=True)
    seen = []
    for epoch in (1, 2):
        samples.set_epoch(epoch)
        seen.append(torch.cat([batch["box"] for batch in loader]))
    samples.set_epoch(2)
    assert not torch.equal(*seen)
    assert torch.equal(seen[1], boxes(samples))


def test_each_file_is_decoded_once_and_never_looked_at_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    for reader in (cases.read_volume, cases.read_mask):

        def counted(path: Path, read: Callable[[Path], Volume] = reader) -> Volume:
            decoded.append(path)
            return read(path)

        monkeypatch.setattr(cases, reader.__name__, counted)
    samples = dataset(root, transform=Compose([RandJitterBoxd(max_jitter=5)]))
    assert sorted(decoded) == sorted(root.rglob("*.nii.gz"))
    assert len(decoded) == 6
    shutil.rmtree(root)
    for epoch in (1, 2):
        samples.set_epoch(epoch)
        assert len(boxes(samples, workers=epoch - 1)) == len(samples)


@pytest.mark.parametrize("memory_gb", [0, 30e-6])
def test_slices_on_disk_equal_those_in_memory_and_leave_nothing(root: Path, tmp_path: Path, memory_gb: float) -> None:
    folder = tmp_path / "cache"
    in_memory, on_disk = dataset(root), dataset(root, memory_gb=memory_gb, cache_dir=folder)
    for n in range(len(in_memory)):
        assert torch.equal(in_memory[n]["image"], on_disk[n]["image"])
        assert torch.equal(in_memory[n]["label"], on_disk[n]["label"])
    assert list(folder.iterdir()) == []
    assert torch.equal(boxes(in_memory), boxes(on_disk, workers=2))


def test_ultrasound_pictures_become_samples_with_both_lesions_as_one_label(shared_data: Path) -> None:
    split = open_dataset("brast", shared_data / "Dataset_BUSI_with_GT")
    by_name = {case.name: case for case in split.training + split.validation}
    assert len(by_name) == 130
    chosen = [by_name[name] for name in ("benign (4)", "malignant (1)", "normal (1)")]
    samples = SliceDataset(chosen, split.labels, split.preset, progress=False)
    assert samples.cases == ["benign (4)", "malignant (1)"]
    assert [skip.case for skip in samples.skipped] == ["normal (1)"]
    lesions = SliceDataset(chosen[:1], split.labels, split.preset, components=True, progress=False)
    assert len(lesions) == len(chosen[0].masks) == 2
    _, height, width = samples[0]["image"].shape
    assert read_volume(chosen[0].image).array.shape[1:] == (width, height, 1)


@pytest.mark.parametrize(("name", "folder"), [("momo", "Task04_Hippocampus"), ("segrap", "OpenKBP_HeadNeck")])
def test_real_volumes_of_the_recipes_become_samples(shared_data: Path, name: str, folder: str) -> None:
    split = open_dataset(name, shared_data / folder, max_cases=6)
    samples = SliceDataset(
        split.training + split.validation,
        split.labels,
        split.preset,
        min_foreground=10,
        transform=Compose([RandJitterBoxd(max_jitter=5), ResizeLongestSided(128)]),
        progress=False,
    )
    batch = next(iter(DataLoader(samples, batch_size=8)))
    assert len(samples.cases) == 6
    assert batch["image"].shape == (8, 3, 128, 128)
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert (batch["label"].sum(dim=(1, 2, 3)) > 0).all()


def test_a_digest_names_the_image_as_the_network_gets_it(root: Path) -> None:
    resized = dataset(root, digest=True, transform=Compose([ResizeLongestSided(32), RandJitterBoxd(max_jitter=4)]))
    first = resized[0]
    assert first["digest"] == image_digest(first["image"])
    resized.set_epoch(1)
    assert not torch.equal(resized[0]["box"], first["box"])
    assert resized[0]["digest"] == first["digest"] == resized[1]["digest"]  # two labels of one slice
    assert resized[2]["digest"] != first["digest"] != dataset(root, digest=True)[0]["digest"]
    assert "digest" not in dataset(root)[0]


def test_a_digest_is_refused_where_images_change_at_random(root: Path) -> None:
    with pytest.raises(ValueError, match="RandFlipd changes at random"):
        dataset(root, digest=True, transform=Compose([RandFlipd(keys=["image", "label"])]))


@pytest.mark.parametrize("workers", [0, 1])
def test_grey_images_stay_at_one_channel_until_one_in_colour_is_among_them(root: Path, workers: int) -> None:
    samples = dataset(root, transform=Compose([ResizeLongestSided(32)]))  # padded with a colour
    grey = dataset(root)
    chosen = [[samples[0], samples[1]], [grey[0], grey[1]], [grey[0], {**grey[1], "image": torch.rand(3, 30, 40)}]]
    loader = DataLoader(chosen, batch_size=None, collate_fn=collate_slices, num_workers=workers)
    padded, plain, mixed = loader
    assert (padded["image"].shape, padded["label"].shape) == ((2, 3, 32, 32), (2, 1, 32, 32))
    assert plain["image"].shape == (2, 1, 30, 40)
    assert mixed["image"].shape == (2, 3, 30, 40)
    assert torch.equal(mixed["image"][0], grey[0]["image"].expand(3, -1, -1))
    assert torch.equal(plain["label"], torch.stack([grey[0]["label"], grey[1]["label"]]))
    assert plain["case"] == ["case0", "case0"]


def test_with_classes_every_slice_is_a_sample_with_all_labels_and_no_box(root: Path) -> None:
    samples = dataset(root, classes=True, labels={"pair": 2, "block": 1})
    image, labels = case_arrays(seed=1)
    depth = image.shape[2]
    assert len(samples) == 3 * depth  # also those without foreground
    sample = samples[depth + 2]
    assert (sample["case"], sample["slice"]) == ("case1", 2)
    assert "box" not in sample
    truth = take_slice(labels[None], "axial", 2)
    expected = np.where(truth == 2, 1, np.where(truth == 1, 2, 0))  # by the labels' order
    assert (sample["label"].numpy() == expected).all()
    assert samples.labels_of(depth + 2) == ["pair", "block"]
    shown = samples.one_label(depth + 2, "block")
    assert (shown["label"].numpy() == (truth == 1)).all()
    assert (shown["class"], shown["label_name"]) == (2, "block")
    empty = [n for n in range(len(samples)) if not samples.labels_of(n)]
    assert empty
    assert all(not samples[n]["label"].any() for n in empty)
