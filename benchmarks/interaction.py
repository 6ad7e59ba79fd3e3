"""How long a user waits: a box on a slice that was seen before, on a new slice, and a 3D box of 32 slices.

python benchmarks/interaction.py --sam_variant vit_mini
python benchmarks/interaction.py --sam_variant vit_b --sam_checkpoint sam_vit_b_01ec64.pth --slices 4
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from monai_cobot.data import volume_from_array
from monai_cobot.inferers import AdapterShelf, EmbeddingCache, Region, VolumeSession
from monai_cobot.networks import build_sam

BOX = (120.0, 140.0, 380.0, 330.0)


def main() -> None:
    """Measure and print a table in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam_variant", default="vit_mini")
    parser.add_argument("--sam_checkpoint", help="times do not depend on it; without, vit_b has random weights")
    parser.add_argument("--slices", type=int, default=32, help="of the 3D box")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are as quick as others
        sam = build_sam(options.sam_variant, options.sam_checkpoint)
    model = AdapterShelf(sam, options.device).base
    array = np.random.default_rng(0).integers(-200, 300, (512, 512, 40 + options.slices)).astype(np.int16)
    volume = volume_from_array(array, np.diag([-0.8, -0.8, 2.5, 1.0]))

    with VolumeSession(volume, model, "ct_abdomen", EmbeddingCache(), look_ahead=False) as session:
        session.segment_slice("axial", 0, BOX)  # the first call warms up
        kept = [timed(lambda: session.segment_slice("axial", 0, BOX)) for _ in range(options.repeats)]
        new = [timed(lambda n=n: session.segment_slice("axial", n, BOX)) for n in range(1, 1 + min(5, options.repeats))]
        region = Region((120, 140, 40), (380, 330, 40 + options.slices))
        whole = timed(lambda: session.segment_region(region, label=2))
    print(
        f"{options.sam_variant} at {sam.image_encoder.img_size}, {options.device}, {torch.get_num_threads()} threads\n"
    )
    print("| a slice of 512 x 512 | ms |\n| --- | --: |")
    print(f"| box, embedding kept | {median(kept):.0f} |")
    print(f"| box, new slice | {median(new):.0f} |")
    print(f"| 3D box of {options.slices} new slices | {whole:.0f} |")


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
