import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_cobot.data import (
    CaseError,
    MaskPrompts,
    Prompt,
    PromptDataset,
    PromptedImage,
    PromptLoader,
    cases_of,
    open_dataset,
    prompts_from_masks,
    read_prompts,
)
from monai_cobot.transforms import scale_intensity, take_slice
from tests.data.conftest import Write, case_arrays

LABELS = {"block": 1, "pair": 2}
ENTRY = {"image": "a.nii.gz", "slice": 1, "box": [4, 5, 16, 25], "label": 1}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_listed_prompts_keep_their_order_and_their_images_are_named_by_their_paths(tmp_path: Path) -> None:
    listed = [
        ENTRY | {"image": "one/scan.nii.gz"},
        ENTRY | {"image": "two/scan.nrrd", "axis": "coronal", "box": None},
        ENTRY | {"image": "./one/../one/scan.nii.gz", "label": 7},
        ENTRY | {"image": "two/series"},
    ]
    images = read_prompts(write(tmp_path / "p.json", listed), axis="sagittal")
    assert [image.name for image in images] == ["one/scan", "two/scan", "two/series"]
    assert images[0].image == tmp_path / "one" / "scan.nii.gz"
    assert [(prompt.label, prompt.axis) for prompt in images[0].prompts] == [(1, "sagittal"), (7, "sagittal")]
    assert (images[1].prompts[0].box, images[1].prompts[0].axis) == (None, "coronal")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slice": -1}, '"slice" must be a whole number from 0'),
        ({"slice": 1.5}, '"slice" must be a whole number'),
        ({"label": 0}, '"label" must be a whole number from 1'),
        ({"label": True}, '"label" must be a whole number'),
        ({"box": [1, 2, 3]}, "four numbers"),
        ({"box": [9, 2, 3, 4]}, "inverted"),
        ({"box": "all"}, r"must be \[x0, y0, x1, y1\] or null"),
        ({"box": [1, 2, float("nan"), 4]}, "not finite"),
        ({"axis": "oblique"}, "choose one of axial"),
        ({"image": 3}, '"image" must be the path'),
        ({"lable": 1}, "unknown keys"),
    ],
)
def test_an_entry_that_makes_no_sense_is_named_before_any_image_is_read(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=rf"p\.json: entry 1: .*{said}"):
        read_prompts(write(tmp_path / "p.json", [ENTRY, ENTRY | change]))


def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        read_prompts(tmp_path / "absent.json")
    for content, said in (
        ("[{", "not valid JSON"),
        ({}, "a list of entries"),
        ([], "a list of entries"),
        ([3], "entry 0: an object"),
        ([{"image": "a.nii"}], "entry 0: missing keys"),
        ([ENTRY, ENTRY | {"image": "a.nrrd"}], "same name"),
    ):
        with pytest.raises(ValueError, match=said):
            read_prompts(write(tmp_path / "p.json", content))


def test_masks_give_a_box_for_each_slice_and_label(write_msd: Write) -> None:
    split = open_dataset("msd", write_msd({"a": case_arrays(), "b": case_arrays(seed=1)}))
    source = next(source for source in prompts_from_masks(split, "all") if source.name == "b")
    image, _ = case_arrays(seed=1)
    volume, prompts = source.load()
    assert (volume.array[0] == image).all()
    assert [(prompt.slice, prompt.label) for prompt in prompts] == [(n, label) for label in (1, 2) for n in range(1, 5)]
    assert prompts[0].box == (5, 4, 25, 16)  # the block is [5:25, 4:16] along I, J; columns run along I
    assert prompts[4].box == (28, 4, 38, 25)
    coronal = prompts_from_masks(split, "all", axis="coronal", min_foreground=60)[0].load()[1]
    assert {prompt.box for prompt in coronal if prompt.label == 1} == {(5, 1, 25, 5)}
    assert not any(prompt.label == 2 for prompt in coronal)


def test_each_component_of_a_mask_can_have_a_box(write_msd: Write) -> None:
    split = open_dataset("msd", write_msd({"a": case_arrays(), "b": case_arrays()}), label="pair")
    prompts = prompts_from_masks(split, "all", components=True)[0].load()[1]
    assert [prompt.box for prompt in prompts[:2]] == [(28, 4, 38, 10), (28, 20, 33, 25)]
    large = prompts_from_masks(split, "all", components=True, min_foreground=30)[0].load()[1]
    assert {prompt.box for prompt in large} == {(28, 4, 38, 10)}


def test_a_case_without_the_label_says_which_it_has(write_msd: Write) -> None:
    case = open_dataset("msd", write_msd({"a": case_arrays(), "b": case_arrays()})).training[0]
    with pytest.raises(CaseError, match=r"pixels or more of liver; .*\[1, 2\]"):
        MaskPrompts(case, {"liver": 9}).load()


def test_parts_of_a_data_set_are_chosen_by_name(write_msd: Write) -> None:
    split = open_dataset("msd", write_msd({name: case_arrays() for name in "abc"}))
    assert cases_of(split, "all") == [*split.training, *split.validation]
    assert cases_of(split, "training") == split.training
    with pytest.raises(ValueError, match="choose one of training, validation, all"):
        cases_of(split, "test")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_hold_every_prompt_once_and_never_too_many_boxes(
    write_nifti: Write, tmp_path: Path, batch_size: int
) -> None:
    image, _ = case_arrays()
    write_nifti("a.nii.gz", image)
    write_nifti("b.nii.gz", image + 1)
    order = [(0, 3), (1, 1), (0, 4), (2, 2), (0, 5), (0, 6), (3, 7)]  # slice, label
    listed = [ENTRY | {"slice": index, "label": label, "box": [0, 0, label, 9]} for index, label in order]
    listed += [ENTRY | {"axis": "sagittal", "box": None}, ENTRY | {"label": 9}, ENTRY | {"image": "b.nii.gz"}]
    dataset = PromptDataset(read_prompts(write(tmp_path / "p.json", listed)), "ct_abdomen")
    seen: list[tuple[str, Prompt]] = []
    last: list[str] = []
    for batch in PromptLoader(dataset, batch_size, progress=False):
        slices, boxes = batch["box"].shape[:2]
        assert slices * boxes <= batch_size
        assert batch["image"].shape[0] == slices == len(batch["prompts"])
        for pixels, of_slice, prompts in zip(batch["image"], batch["box"], batch["prompts"], strict=True):
            source: PromptedImage = batch["source"]
            shown = take_slice(source.volume.array, prompts[0].axis, prompts[0].slice)
            assert torch.equal(pixels, scale_intensity(shown, -160, 240))
            for box, prompt in zip(of_slice, prompts, strict=False):
                assert tuple(box.tolist()) == (prompt.box or (0, 0, *reversed(shown.shape[-2:])))
            seen += [(source.name, prompt) for prompt in prompts]
        last += [batch["source"].name] * batch["last"]
    assert sorted(prompt.origin for _, prompt in seen) == sorted(f"{tmp_path / 'p.json'}: entry {n}" for n in range(10))
    assert [prompt.label for name, prompt in seen if name == "a" and prompt.slice == 0] == [3, 4, 5, 6]
    assert [prompt.axis for name, prompt in seen if name == "a"] == ["axial"] * 7 + ["sagittal", "axial"]
    assert last == ["a", "b"]


def test_boxes_of_one_slice_share_its_image(write_nifti: Write, tmp_path: Path) -> None:
    write_nifti("a.nii.gz", case_arrays()[0])
    listed = [ENTRY | {"label": label} for label in (1, 2, 3)]
    dataset = PromptDataset(read_prompts(write(tmp_path / "p.json", listed)), "ct_abdomen")
    (batch,) = PromptLoader(dataset, 8, progress=False)
    assert (batch["image"].shape[0], batch["box"].shape) == (1, (1, 3, 4))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_used_are_skipped_with_the_reason(
    write_nifti: Write, tmp_path: Path, workers: int
) -> None:
    write_nifti("a.nii.gz", case_arrays()[0])
    write_nifti("zero.nii.gz", np.zeros((4, 4, 4), dtype=np.int16))
    listed = [
        ENTRY | {"image": "absent.nii.gz"},
        ENTRY | {"image": "zero.nii.gz"},
        ENTRY,
    ]
    loader = PromptLoader(
        PromptDataset(read_prompts(write(tmp_path / "p.json", listed)), "mr"), 4, workers, progress=False
    )
    for _ in range(2):
        assert [batch["source"].name for batch in loader] == ["a"]
        assert [skip.case for skip in loader.skipped] == ["absent", "zero"]
        assert "every voxel is 0" in loader.skipped[1].reason


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose one of ct_sam_cobot"):
        PromptDataset([], None)
    dataset = PromptDataset([], "mr")
    with pytest.raises(ValueError, match="batch_size"):
        PromptLoader(dataset, 0)
    with pytest.raises(ValueError, match="outside a world"):
        PromptLoader(dataset, 1, rank=2, world_size=2)


def test_a_table_says_the_same_as_a_list(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        json.dumps(
            [
                {"image": "a.nii.gz", "slice": 3, "box": [1, 2.5, 8, 9], "label": 1},
                {"image": "b/c.png", "slice": 0, "box": None, "label": 2, "axis": "coronal"},
            ]
        ),
        encoding="utf-8",
    )
    expected = [(source.name, source.image, source.prompts) for source in read_prompts(tmp_path / "p.json")]
    for divider in (",", ";", "\t"):
        lines = ["image,slice,x0,y0,x1,y1,label,axis", "a.nii.gz,3,1,2.5,8,9.0,1,", "b/c.png,0,,,,,2,coronal"]
        (tmp_path / "p.csv").write_text("\r\n".join(lines).replace(",", divider), encoding="utf-8-sig")
        found = read_prompts(tmp_path / "p.csv")
        assert [prompt.origin for source in found for prompt in source.prompts] == [
            f"{tmp_path / 'p.csv'}: line {number}" for number in (2, 3)
        ]
        plain = [
            (source.name, source.image, tuple(replace(prompt, origin=of.origin) for prompt, of in pairs))
            for source, (_, _, prompts) in zip(found, expected, strict=True)
            for pairs in [list(zip(source.prompts, prompts, strict=True))]
        ]
        assert plain == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,slice,box\n", "x0, y0, x1, y1"),
        ("image,slice,x0,y0,x1,y1,label\n", "lists no box"),
        ("image,slice,x0,y0,x1,y1,label\na.png,0,1,2,3,,1\n", "line 2"),
        ("image,slice,x0,y0,x1,y1,label\na.png,0,1,2,3,4,liver\n", "label"),
        ("image,slice,x0,y0,x1,y1,label\na.png,0.5,1,2,3,4,1\n", "slice"),
    ],
)
def test_a_table_that_cannot_be_understood_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "p.csv").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=said) as raised:
        read_prompts(tmp_path / "p.csv")
    assert "p.csv" in str(raised.value)
