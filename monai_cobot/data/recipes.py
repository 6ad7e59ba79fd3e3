"""The data sets of SAM-COBOT's medical experiments and how each is used here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monai.apps import DecathlonDataset, download_and_extract

__all__ = ["RECIPES", "Recipe", "download", "find_recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a data set is had and used.

    Attributes:
        name: what a user types.
        title: its full name.
        url: where it is had.
        licence: under which terms.
        citation: what to cite.
        layout_on_disk: how the folder looks, in a line.
        layouts: names of the layouts that are tried, in this order.
        preset: intensity preset; empty where it follows from the modality that the folder names.
        labels: name -> value; empty where the folder itself says so.
        axis: default slice axis.
        split: where training and validation come from, in a line.
        msd_task: name in MONAI's table of Medical Segmentation Decathlon downloads; None where it is not one.
    """

    name: str
    title: str
    url: str
    licence: str
    citation: str
    layout_on_disk: str
    layouts: tuple[str, ...]
    preset: str
    labels: Mapping[str, int] = field(default_factory=dict)
    axis: str = "axial"
    split: str = "by patient, a fifth for validation"
    msd_task: str | None = None


_MSD_URL = "http://medicaldecathlon.com"
_MSD_LICENCE = "CC BY-SA 4.0"
_MSD_CITATION = "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022"
_MSD_LAYOUT = "`dataset.json`, `imagesTr/`, `labelsTr/`"

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="adome",
            title="AbdomenCT-1K: four abdominal organs in CT",
            url="https://github.com/JunMa11/AbdomenCT-1K",
            licence="see the Zenodo records that the page names",
            citation="Ma et al., AbdomenCT-1K: Is Abdominal Organ Segmentation a Solved Problem?, TPAMI 2022",
            layout_on_disk="`AbdomenCT-1K-ImagePart1/Case_00001_0000.nii.gz`, `Mask/Case_00001.nii.gz`, or MSD",
            layouts=("abdomen_ct_1k", "msd"),
            preset="ct_sam_cobot",
            labels={"liver": 1, "kidney": 2, "spleen": 3, "pancreas": 4},
        ),
        Recipe(
            name="splen",
            title="Medical Segmentation Decathlon Task09: spleen in CT",
            url=_MSD_URL,
            licence=_MSD_LICENCE,
            citation=_MSD_CITATION,
            layout_on_disk=_MSD_LAYOUT,
            layouts=("msd",),
            preset="ct_sam_cobot",
            msd_task="Task09_Spleen",
        ),
        Recipe(
            name="momo",
            title="Medical Segmentation Decathlon Task02: left atrium in mono-modal MRI; also fits Task04 hippocampus",
            url=_MSD_URL,
            licence=_MSD_LICENCE,
            citation=_MSD_CITATION,
            layout_on_disk=_MSD_LAYOUT,
            layouts=("msd",),
            preset="mr",
            msd_task="Task02_Heart",
        ),
        Recipe(
            name="brast",
            title="BUSI: lesions in breast ultrasound",
            url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
            licence="free with citation",
            citation="Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 2020",
            layout_on_disk="`benign/benign (1).png`, `benign/benign (1)_mask.png`, `malignant/`, `normal/`",
            layouts=("busi",),
            preset="ultrasound",
        ),
        Recipe(
            name="segrap",
            title="SegRap2023: organs at risk and tumours of head and neck in planning CT",
            url="https://segrap2023.grand-challenge.org",
            licence="after registration, for research; see the challenge",
            citation="Luo et al., SegRap2023, Medical Image Analysis 2025",
            layout_on_disk="`segrap_0000/image.nii.gz`, `segrap_0000/Brain.nii.gz`, ..., or MSD",
            layouts=("case_folders", "msd"),
            preset="ct_sam_cobot",
            split="the folder's own where it has one, otherwise by patient, a fifth for validation",
        ),
        Recipe(
            name="msd",
            title="Any folder in the layout of the Medical Segmentation Decathlon, or any MONAI data list",
            url="your own",
            licence="your own",
            citation="your own",
            layout_on_disk=f"{_MSD_LAYOUT}, or a `.json` list",
            layouts=("msd", "data_list"),
            preset="",
            split="the folder's own where it has one, otherwise by patient, a fifth for validation",
        ),
        Recipe(
            name="phantom",
            title="Generated abdominal CT, for trying things out",
            url="generated on the spot",
            licence="Apache-2.0",
            citation="none",
            layout_on_disk=_MSD_LAYOUT,
            layouts=("msd",),
            preset="ct_abdomen",
            split="its own: a quarter for validation",
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]


def download(recipe: Recipe, root: str | Path) -> Path:
    """Downloads a Medical Segmentation Decathlon task with MONAI's downloader and checks its sum.

    Args:
        recipe: one with an ``msd_task``.
        root: folder that will hold the task's folder.

    Returns:
        The task's folder.

    Raises:
        ValueError: for a data set that has to be asked for; the message says where.
    """
    if recipe.msd_task is None:
        raise ValueError(f"{recipe.title} cannot be downloaded from here; it is had at {recipe.url}.")
    task = recipe.msd_task
    archive = Path(root) / f"{task}.tar"
    download_and_extract(DecathlonDataset.resource[task], archive, root, DecathlonDataset.md5[task])
    return Path(root) / task
