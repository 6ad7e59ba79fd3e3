import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from monai.apps import DecathlonDataset

from monai_cobot.data import RECIPES, CaseSplit, Recipe, download, find_recipe, generate_phantom, open_dataset, opening
from monai_cobot.data.layouts import LAYOUTS
from monai_cobot.transforms.intensity import find_preset
from tests.data.conftest import Write, case_arrays


@pytest.fixture
def root(write_msd: Write) -> Path:
    return write_msd({f"case{n}": case_arrays() for n in range(5)})


def test_one_call_gives_cases_labels_and_preset(root: Path) -> None:
    split = open_dataset("msd", root)
    assert (len(split.training), len(split.validation)) == (4, 1)
    assert split.labels == {"block": 1, "pair": 2}
    assert split.preset == "ct_sam_cobot"
    assert split.recipe is RECIPES["msd"]
    again = open_dataset("msd", str(root), preset="window:0,80", validation_fraction=0.4, max_cases=3)
    assert (len(again.training), len(again.validation)) == (2, 1)
    assert again.preset == "window:0,80"


@pytest.mark.parametrize(
    ("label", "chosen"),
    [("block", {"block": 1}), ("BLOCK", {"block": 1}), (2, {"pair": 2}), (["pair", 1], {"pair": 2, "block": 1})],
)
def test_labels_are_chosen_by_name_or_value(root: Path, label: object, chosen: dict[str, int]) -> None:
    assert open_dataset("msd", root, label=label).labels == chosen  # type: ignore[arg-type]


def test_what_does_not_exist_is_refused_with_what_does(root: Path) -> None:
    with pytest.raises(ValueError, match=r"'spleen'; there are block = 1, pair = 2"):
        open_dataset("msd", root, label="spleen")
    with pytest.raises(ValueError, match="no label is chosen"):
        open_dataset("msd", root, label=[])
    with pytest.raises(ValueError, match="unknown intensity preset"):
        open_dataset("msd", root, preset="ct")
    with pytest.raises(ValueError, match="adome, splen, momo, brast, segrap, msd, phantom"):
        open_dataset("acdc", root)
    with pytest.raises(FileNotFoundError, match=r"absent.*http://medicaldecathlon\.com"):
        open_dataset("splen", root / "absent")


def test_a_split_file_comes_before_the_data_sets_own(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"training": ["case4"], "validation": ["case0", "case2"]}), encoding="utf-8")
    split = open_dataset("msd", root, split=path)
    assert [case.name for case in split.training] == ["case4"]
    assert [case.name for case in split.validation] == ["case0", "case2"]


def test_a_modality_without_a_preset_asks_for_one(write_msd: Write) -> None:
    root = write_msd({"a": case_arrays(), "b": case_arrays()}, modality={"0": "PET"})
    with pytest.raises(ValueError, match="choose a preset"):
        open_dataset("msd", root)
    assert open_dataset("msd", root, preset="window:0,10").preset == "window:0,10"


def test_labels_without_names_are_found_in_the_masks(write_msd: Write) -> None:
    root = write_msd({"a": case_arrays(), "b": case_arrays()}, labels={})
    assert open_dataset("msd", root).labels == {"label 1": 1, "label 2": 2}


def test_the_folder_that_holds_the_task_will_do(write_msd: Write, tmp_path: Path) -> None:
    write_msd({"a": case_arrays(), "b": case_arrays()}, root="Task09_Spleen")
    assert len(open_dataset("splen", tmp_path).training) == 1


def test_a_missing_phantom_is_generated(tmp_path: Path) -> None:
    split = open_dataset("phantom", tmp_path / "new" / "phantom", label="liver")
    assert (len(split.training), len(split.validation)) == (9, 3)
    assert split.labels == {"liver": 1}


def test_processes_that_make_the_phantom_at_the_same_time_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "generate_phantom", partial(generate_phantom, num_cases=4, size=(32, 24, 8)))
    start = Barrier(3)

    def open_one(_: int) -> CaseSplit:
        start.wait()
        return open_dataset("phantom", tmp_path / "phantom")

    with ThreadPoolExecutor(3) as pool:
        splits = list(pool.map(open_one, range(3)))
    assert splits[0] == splits[1] == splits[2]
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_a_recipe_is_complete_and_documented(recipe: Recipe, repository: Path) -> None:
    assert find_recipe(recipe.name) is recipe
    assert set(recipe.layouts) <= set(LAYOUTS)
    if recipe.preset:
        find_preset(recipe.preset)
    for text in (recipe.title, recipe.url, recipe.licence, recipe.citation, recipe.layout_on_disk, recipe.split):
        assert text
    if recipe.msd_task is not None:
        assert recipe.msd_task in DecathlonDataset.resource
        assert recipe.msd_task in DecathlonDataset.md5
    documented = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"`{recipe.name}`" in documented
    assert recipe.url in documented


def test_what_cannot_be_downloaded_says_where_it_is_had(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"segrap2023\.grand-challenge\.org"):
        download(find_recipe("segrap"), tmp_path)


def test_real_folders_open_with_their_own_split(shared_data: Path) -> None:
    split = open_dataset("segrap", shared_data / "OpenKBP_HeadNeck")
    assert (len(split.training), len(split.validation)) == (58, 15)
    assert split.labels["Mandible"] == 7
    split = open_dataset("momo", shared_data / "Task04_Hippocampus", label="Anterior")
    assert (len(split.training), len(split.validation)) == (160, 40)
    assert split.labels == {"Anterior": 1}
