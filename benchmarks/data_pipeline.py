"""How many slices a second the data pipeline prepares, and whether its memory grows with their number.

    python benchmarks/data_pipeline.py
    python benchmarks/data_pipeline.py --memory

Volumes like CT (compressed NIfTI, 512 x 512) and pictures like ultrasound (PNG, of many shapes) are generated. A slice
is prepared as in the bundle's training: taken from the data set, windowed, resized, its box moved, put into a batch of
eight. The figures are slices a second of processor time on one thread, the median of the rounds with the quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose
from PIL import Image
from torch.utils.data import DataLoader

from monai_cobot.data import Case, EpochSampler, MaskFile, SliceDataset, collate_slices
from monai_cobot.transforms import RandJitterBoxd, ResizeLongestSided

SIZES = (256, 1024)
SLICE_COUNTS = (1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Throughput:
    """Slices a second of processor time on one thread.

    Attributes:
        source: what the slices come from.
        size: side of the prepared image, in pixels.
        startup: seconds a case, to decode it and to keep its slices.
        rates: one a round.
    """

    source: str
    size: int
    startup: float
    rates: tuple[float, ...]


def measure_throughput(
    folder: Path, sizes: Sequence[int] = SIZES, slices: int = 96, rounds: int = 7
) -> list[Throughput]:
    """Measures every source at every size; the rounds of all alternate.

    Args:
        folder: where the generated images go.
        sizes: of the prepared images, in pixels.
        slices: of a round.
        rounds: how often each is measured.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sources = {"CT, .nii.gz": write_volumes(folder / "ct"), "ultrasound, .png": write_pictures(folder / "us")}
        loaders, startups, rates = {}, {}, {}
        for name, cases in sources.items():
            for size in sizes:
                start = time.process_time()
                dataset = _dataset(cases, size)
                startups[name, size] = (time.process_time() - start) / len(cases)
                sampler = EpochSampler(dataset, samples_per_epoch=slices)
                loaders[name, size] = DataLoader(dataset, batch_size=8, sampler=sampler, collate_fn=collate_slices)
                rates[name, size] = [_rate(loaders[name, size])][1:]  # the first one warms up
        for _ in range(rounds):
            for key, loader in loaders.items():
                rates[key].append(_rate(loader))
        return [Throughput(name, size, startups[name, size], tuple(rates[name, size])) for name, size in loaders]
    finally:
        torch.set_num_threads(threads)


def measure_memory(slices: int, folder: Path) -> float:
    """Peak memory in MB of a process that opens a data set of so many slices and takes 1,000 of them.

    The slices are 128 x 128, 500 a volume; 100 MB of them may be in memory. The peak of a process that has only
    imported what is needed is subtracted.
    """
    used, empty = (
        float(subprocess.check_output([sys.executable, __file__, "--slices", str(count), "--folder", str(folder)]))
        for count in (slices, 0)
    )
    return used - empty


def write_volumes(folder: Path, count: int = 2, shape: tuple[int, int, int] = (512, 512, 48)) -> list[Case]:
    """Noise and two blocks in Hounsfield units, as compressed NIfTI."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for number in range(count):
        image = random.normal(40, 60, shape).astype(np.int16)
        image[: shape[0] // 8] = -1000
        mask = np.zeros(shape, np.uint8)
        mask[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 1
        image[mask > 0] += 80
        image_file, mask_file = (folder / f"{kind}_{number}.nii.gz" for kind in ("image", "mask"))
        for path, array in ((image_file, image), (mask_file, mask)):
            nib.save(nib.Nifti1Image(array, np.diag([-0.8, -0.8, 2.5, 1])), path)
        cases.append(Case(f"case {number}", image_file, (MaskFile(mask_file),), f"case {number}"))
    return cases


def write_pictures(folder: Path, count: int = 96) -> list[Case]:
    """Grey pictures saved in colour with a bright block, 400 to 600 x 500 to 800 pixels."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for number in range(count):
        height, width = random.integers((400, 500), (600, 800))
        pixels = random.integers(0, 120, (height, width)).astype(np.uint8)
        mask = np.zeros_like(pixels)
        mask[height // 4 : height // 2, width // 3 : width // 2] = 255
        pixels[mask > 0] += 100
        image_file, mask_file = (folder / f"{kind}_{number}.png" for kind in ("image", "mask"))
        Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(image_file)
        Image.fromarray(mask).save(mask_file)
        cases.append(Case(f"picture {number}", image_file, (MaskFile(mask_file, 1),), f"picture {number}"))
    return cases


def _dataset(cases: Sequence[Case], size: int, memory_gb: float = 4.0, folder: Path | None = None) -> SliceDataset:
    transform = Compose([ResizeLongestSided(size), RandJitterBoxd(max_jitter=round(25 / 1024 * size))])
    return SliceDataset(
        cases,
        {"block": 1},
        "window:-160,240",
        transform=transform,
        memory_gb=memory_gb,
        cache_dir=folder,
        progress=False,
    )


def _rate(loader: DataLoader) -> float:
    start = time.process_time()
    slices = sum(len(batch["image"]) for batch in loader)
    return slices / (time.process_time() - start)


def _peak_with(slices: int, folder: Path) -> float:
    """Peak memory of this process in MB, once it has used a data set of so many slices; 0 for none."""
    if slices:
        (case,) = write_volumes(folder / f"memory_{slices}", 1, (128, 128, min(slices, 500)))
        # one file stands for all: what is measured is what stays of each
        cases = [Case(f"case {n}", case.image, case.masks, f"case {n}") for n in range(-(-slices // 500))]
        dataset = _dataset(cases, 128, memory_gb=0.1, folder=folder)
        sampler = EpochSampler(dataset, samples_per_epoch=1000)
        for _ in DataLoader(dataset, batch_size=8, sampler=sampler, collate_fn=collate_slices):
            pass
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--memory", action="store_true", help="measure memory (Linux) instead of speed")
    parser.add_argument("--slices", type=int, help="print the peak memory with so many slices, in MB, and end")
    parser.add_argument("--folder", type=Path, help="where generated images go; a temporary folder if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.slices is not None:
            print(_peak_with(arguments.slices, folder))
        elif arguments.memory:
            print("| slices | peak memory beyond imports, MB |\n| --- | --- |")
            for slices in SLICE_COUNTS:
                print(f"| {slices:,} | {measure_memory(slices, folder):.0f} |", flush=True)
        else:
            print(
                "| slices of | prepared at, pixels | slices a second a core: median | quartiles | start-up, ms a case |"
            )
            print("| --- | --- | --- | --- | --- |")
            for row in measure_throughput(folder):
                low, median, high = statistics.quantiles(row.rates, n=4)
                print(
                    f"| {row.source} | {row.size} | {median:.0f} | {low:.0f} to {high:.0f} | {1000 * row.startup:.0f} |"
                )


if __name__ == "__main__":
    main()
