from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_cobot.data import PHANTOM_LABELS, generate_phantom, load_case, read_layout
from monai_cobot.data.phantom import phantom_case

SMALL = (64, 48, 24)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_phantom(tmp_path_factory.mktemp("data") / "phantom", num_cases=4, size=SMALL)


def test_the_phantom_is_a_decathlon_folder_with_a_split(root: Path) -> None:
    folder = read_layout(root, ["msd"])
    assert [case.split for case in folder.cases] == ["training"] * 3 + ["validation"]
    assert folder.labels == PHANTOM_LABELS
    assert folder.modality == "CT"


def test_organs_lie_where_they_belong_in_files_of_different_orientation(root: Path) -> None:
    orientations = set()
    for case in read_layout(root, ["msd"]).cases:
        loaded = load_case(case)
        orientations.add(nib.aff2axcodes(nib.load(case.image).affine))
        middle = {name: np.argwhere(loaded.mask(value)).mean(axis=0) for name, value in PHANTOM_LABELS.items()}
        assert middle["liver"][0] < middle["stomach"][0]  # I grows to the patient's left
        assert middle["right kidney"][0] < SMALL[0] / 2 < min(middle["left kidney"][0], middle["spleen"][0])
        assert middle["stomach"][1] < middle["left kidney"][1]  # J grows to posterior
        assert middle["right kidney"][2] < middle["liver"][2]  # K grows to superior
        for name, (low, high) in {"liver": (70, 150), "spleen": (80, 160), "left kidney": (100, 220)}.items():
            tissue = loaded.image.array[0][loaded.mask(PHANTOM_LABELS[name])]
            assert low < np.percentile(tissue, 75) < high  # thin organs are half edge on a coarse grid
        assert loaded.image.array.min() < -900
        assert loaded.image.array.max() > 300
    assert len(orientations) == 3


def test_every_case_is_another_and_the_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again = generate_phantom(tmp_path / "again", num_cases=4, size=SMALL)
    other = generate_phantom(tmp_path / "other", num_cases=2, size=SMALL, seed=1)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == 9
    assert len({(root / file).read_bytes() for file in files}) == 9
    for file in files:
        assert (root / file).read_bytes() == (again / file).read_bytes()
    assert (root / files[-1].parent / "phantom_000.nii.gz").read_bytes() != (
        other / files[-1].parent / "phantom_000.nii.gz"
    ).read_bytes()


def test_an_ellipse_in_the_box_is_not_the_answer() -> None:
    _, labels, _ = phantom_case((128, 96, 32), np.random.default_rng(0))
    scores: dict[str, list[float]] = {name: [] for name in PHANTOM_LABELS}
    for name, value in PHANTOM_LABELS.items():
        for k in range(labels.shape[2]):
            mask = labels[:, :, k] == value
            if mask.sum() < 100:
                continue
            (x0, y0), (x1, y1) = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1
            x, y = np.meshgrid(np.arange(128) + 0.5, np.arange(96) + 0.5, indexing="ij")
            ellipse = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 < 1
            scores[name].append(2 * (mask & ellipse).sum() / (mask.sum() + ellipse.sum()))
    assert np.mean(scores["liver"]) < 0.85
    assert np.mean(np.concatenate(list(scores.values()))) < 0.9


def test_a_folder_with_files_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="new folder"):
        generate_phantom(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = nib.save, []

    def fails_at_the_third(image: nib.Nifti1Image, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(image, path)

    monkeypatch.setattr(nib, "save", fails_at_the_third)
    with pytest.raises(OSError, match="No space"):
        generate_phantom(tmp_path / "phantom", num_cases=2, size=(16, 12, 4))
    assert list(tmp_path.iterdir()) == []


def test_one_case_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_cases"):
        generate_phantom(tmp_path / "phantom", num_cases=1)
