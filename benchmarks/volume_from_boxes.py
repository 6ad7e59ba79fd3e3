"""How good is a 3D mask from boxes on three slices, or from one 3D box, against a box on every slice?

Boxes come from the truth: on the slices at 15, 50 and 85 % of the object's extent, around the object in 3D, and on each
of its slices. Prints the DSC of each and writes a picture of slices between and beyond the boxes.

    python benchmarks/volume_from_boxes.py --dataset momo --dataset_dir data/Task04_Hippocampus --cases 5 \
        --adapter_dir runs/fine_tuning/hippocampus/adaptformer_cobot/last
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median

import numpy as np

from monai_cobot.data import LoadedCase, cases_of, load_case, open_dataset
from monai_cobot.inferers import AdaptedSam, AdapterShelf, Region, VolumeSession
from monai_cobot.networks import build_sam
from monai_cobot.peft import read_adapter_config
from monai_cobot.reports import OverlaySample, mask_dice, overlay_sheet
from monai_cobot.transforms import SLICE_AXES, box_from_mask, scale_intensity, slices_of
from monai_cobot.transforms.intensity import intensity_range

PARTS = (0.15, 0.5, 0.85)
WAYS = ("box on each slice", "3 boxes", "3 boxes, fused", "3D box", "3D box, fused")


def main() -> None:
    """Parse the command line, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="recipe, such as momo or segrap")
    parser.add_argument("--dataset_dir", required=True, help="its folder")
    parser.add_argument("--label", default="all", help="name of a label, or all")
    parser.add_argument("--adapter_dir", help="an adapter folder; without, the SAM as it is")
    parser.add_argument("--sam_variant", default="vit_mini")
    parser.add_argument("--sam_checkpoint", help="file of the SAM's weights; without, those in the package")
    parser.add_argument("--axis", default="axial", choices=SLICE_AXES)
    parser.add_argument("--cases", type=int, default=3, help="so many validation cases")
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    options = parser.parse_args()

    cases = open_dataset(options.dataset, options.dataset_dir, label=options.label)
    trained = read_adapter_config(options.adapter_dir) if options.adapter_dir else None
    shelf = AdapterShelf(
        build_sam(options.sam_variant, options.sam_checkpoint, trained.image_size if trained else None)
    )
    model = shelf.load(options.adapter_dir) if options.adapter_dir else shelf.base
    scores: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in cases.labels}
    samples: list[OverlaySample] = []
    seconds: list[float] = []
    for case in cases_of(cases, "validation")[: options.cases]:
        loaded = load_case(case, cases.labels.values())
        for name, value in cases.labels.items():
            mask = loaded.mask(value)
            if np.count_nonzero(slices_of(mask[None], options.axis).any(axis=(1, 2, 3))) < 5:
                continue
            begun = time.perf_counter()
            found, rows = segment_in_all_ways(loaded, mask, model, cases.preset, options.axis, name)
            seconds.append(time.perf_counter() - begun)
            for way, dice in found.items():
                scores[name][way].append(dice)
            samples += rows if len(samples) < 12 else []
            print(f"{case.name:20} {name:20}" + "".join(f"{found[way]:16.3f}" for way in WAYS), flush=True)

    print(f"\n| label | cases | {' | '.join(WAYS)} |\n| --- | --: |{' --: |' * len(WAYS)}")
    for name, of_label in scores.items():
        if of_label[WAYS[0]]:
            cells = " | ".join(f"{fmean(of_label[way]):.3f}" for way in WAYS)
            print(f"| {name} | {len(of_label[WAYS[0]])} | {cells} |")
    print(f"\nall ways together take {median(seconds):.1f} s an object (median)")
    if options.picture:
        print(overlay_sheet(samples, options.picture, title=f"{options.dataset}: 3D masks from boxes on three slices"))


def segment_in_all_ways(
    loaded: LoadedCase, truth: np.ndarray, model: AdaptedSam, preset: str, axis: str, name: str
) -> tuple[dict[str, float], list[OverlaySample]]:
    """The DSC of each way, and slices to look at, for the truth (I, J, K) of one object."""
    planes = slices_of(truth[None], axis)[:, 0]  # (slices, H, W)
    present = np.flatnonzero(planes.any(axis=(1, 2)))
    boxes = {int(index): tuple(box_from_mask(planes[index]).tolist()) for index in present}
    three = {index: boxes[index] for index in (int(present[int(part * (len(present) - 1) + 0.5)]) for part in PARTS)}
    region = Region.around(truth)
    assert region is not None
    with VolumeSession(loaded.image, model, preset, look_ahead=False) as session:
        for index, box in boxes.items():
            session.segment_slice(axis, index, box, label=1)
        for label, fuse in ((2, False), (3, True)):
            with suppress(ValueError):  # the model finds nothing in the boxes, which are good ones: a DSC of 0
                session.propagate(axis, three, label=label, fuse=fuse)
        session.segment_region(region, label=4, axes=(axis,))
        session.segment_region(region, label=5, axes=SLICE_AXES)
        masks = {
            way: session.lps_mask(label) if label in session.objects else np.zeros_like(truth)
            for label, way in enumerate(WAYS, start=1)
        }
        drawn = session.objects[2].prompts if 2 in session.objects else {}
    samples = []
    image = scale_intensity(loaded.image.array, *intensity_range(loaded.image.array, preset))
    spread = [present[int(part * (len(present) - 1) + 0.5)] for part in (0.05, 0.3, 0.95)]
    for index in spread:
        prediction = slices_of(masks["3 boxes"][None], axis)[index]
        prompts = drawn.get((axis, int(index)))
        samples.append(
            OverlaySample(
                image=slices_of(image.numpy(), axis)[index],
                truth=planes[index],
                before=None,
                after=prediction,
                box=boxes[int(index)] if prompts is None or prompts.box is None else prompts.box,
                title=f"{loaded.case.name}, {name}, {axis} slice {index}; boxes on {', '.join(map(str, three))}",
                dice_before=None,
                dice_after=mask_dice(prediction[0], planes[index]),
            )
        )
    return {way: mask_dice(mask, truth) for way, mask in masks.items()}, samples


if __name__ == "__main__":
    main()
