"""Data sets of medical slices: volumes, cases, layouts on disk, recipes, splits, samplers and a phantom."""

from monai_cobot.data.cases import Case, CaseError, LoadedCase, MaskFile, load_case
from monai_cobot.data.collate import collate_slices
from monai_cobot.data.feature_cache import FeatureCache, image_digest
from monai_cobot.data.image_sources import open_images
from monai_cobot.data.layouts import LAYOUTS, CaseFolder, read_layout
from monai_cobot.data.opening import CaseSplit, open_dataset
from monai_cobot.data.parts import cases_of
from monai_cobot.data.phantom import PHANTOM_LABELS, generate_phantom
from monai_cobot.data.prompt_loader import PromptDataset, PromptedImage, PromptLoader
from monai_cobot.data.prompts import (
    ListedPrompts,
    MaskPrompts,
    Prompt,
    PromptSource,
    WholeSlicePrompts,
    prompts_from_masks,
    read_prompts,
    whole_slices,
)
from monai_cobot.data.recipes import RECIPES, Recipe, download, find_recipe
from monai_cobot.data.samplers import EpochSampler, SameShapeBatchSampler
from monai_cobot.data.slice_dataset import Skip, SliceDataset
from monai_cobot.data.splits import split_by_file, split_by_fraction, split_by_own
from monai_cobot.data.volumes import (
    IMAGE_SUFFIXES,
    Volume,
    labels_in,
    mask_on_source_grid,
    read_mask,
    read_volume,
    volume_from_array,
    without_ending,
    write_label_map,
    write_mask,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "PHANTOM_LABELS",
    "RECIPES",
    "Case",
    "CaseError",
    "CaseFolder",
    "CaseSplit",
    "EpochSampler",
    "FeatureCache",
    "ListedPrompts",
    "LoadedCase",
    "MaskFile",
    "MaskPrompts",
    "Prompt",
    "PromptDataset",
    "PromptLoader",
    "PromptSource",
    "PromptedImage",
    "Recipe",
    "SameShapeBatchSampler",
    "Skip",
    "SliceDataset",
    "Volume",
    "WholeSlicePrompts",
    "cases_of",
    "collate_slices",
    "download",
    "find_recipe",
    "generate_phantom",
    "image_digest",
    "labels_in",
    "load_case",
    "mask_on_source_grid",
    "open_dataset",
    "open_images",
    "prompts_from_masks",
    "read_layout",
    "read_mask",
    "read_prompts",
    "read_volume",
    "split_by_file",
    "split_by_fraction",
    "split_by_own",
    "volume_from_array",
    "whole_slices",
    "without_ending",
    "write_label_map",
    "write_mask",
]
