"""How long a user waits, and what is asked for: a box on a slice that was seen before, on a new slice, a 3D box of new
slices, another adapter, and a point that corrects a slice of the 3D mask.

python benchmarks/interaction.py --sam_variant vit_mini
python benchmarks/interaction.py --sam_variant vit_b --sam_checkpoint sam_vit_b_01ec64.pth --slices 4
python benchmarks/interaction.py --over_http  # as well, through the engine of the module in 3D Slicer (extra [label])
"""

from __future__ import annotations

import argparse
import copy
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from statistics import median

import numpy as np
import torch

from monai_cobot.data import volume_from_array
from monai_cobot.inferers import AdapterShelf, EmbeddingCache, Point, Region, VolumeSession
from monai_cobot.networks import build_sam
from monai_cobot.networks.backends import BACKENDS
from monai_cobot.peft import adapt, save_adapter

BOX = (120.0, 140.0, 380.0, 330.0)
ASKED_KEPT = {"vit_b": 50, "vit_mini": 20}
ASKED_NEW = {("vit_mini", 256): 150}
ASKED_MORE_OVER_HTTP = 30
"""Milliseconds; where there is none, none was asked for."""
FIRST = 40
"""Slice at which the 3D boxes begin, one after the other; the slices before are those of the boxes on single slices."""
AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure and print a table in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam_variant", default="vit_mini")
    parser.add_argument("--sam_checkpoint", help="times do not depend on it; without, vit_b has random weights")
    parser.add_argument("--slices", type=int, default=32, help="of the 3D box")
    parser.add_argument("--box_repeats", type=int, default=3, help="3D boxes, each on slices of its own")
    parser.add_argument("--repeats", type=int, default=20, help="of all else; new slices are 5 of them at most")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="eager", choices=BACKENDS, help="of the image encoder, here and over HTTP")
    parser.add_argument("--over_http", action="store_true", help="measure a MONAI Label server on this computer too")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are as quick as others
        sam = build_sam(options.sam_variant, options.sam_checkpoint)
    shelf = AdapterShelf(sam, options.device, backend=options.backend)
    model = shelf.base
    regions = regions_of(options.slices, options.box_repeats)
    depth = regions[-1].high[2]
    array = np.random.default_rng(0).integers(-200, 300, (512, 512, depth)).astype(np.int16)
    volume = volume_from_array(array, AFFINE)

    with VolumeSession(volume, model, "ct_abdomen", EmbeddingCache(), look_ahead=False) as session:
        session.segment_slice("axial", 0, BOX)  # the first call warms up
        kept = [timed(lambda: session.segment_slice("axial", 0, BOX)) for _ in range(options.repeats)]
        new = [timed(lambda n=n: session.segment_slice("axial", n, BOX)) for n in range(1, 1 + min(5, options.repeats))]
        whole = [timed(lambda region=region: session.segment_region(region, label=2)) for region in regions]
        middle = FIRST + options.slices // 2
        clicks = [Point(250 + number, 235) for number in range(options.repeats)]
        corrected = [timed(lambda click=click: session.add_point("axial", middle, click, label=2)) for click in clicks]
        switches = switch_adapters(session, shelf)
    over_http: tuple[float, ...] = ()
    if options.over_http:
        with served(sam, options) as address:
            over_http = measured_over_http(address, options.sam_variant, array, regions, options.repeats)
    size = sam.image_encoder.img_size
    print(
        f"{options.sam_variant} at {size}, {options.device}, {torch.get_num_threads()} threads; medians of {len(kept)} "
        f"kept embeddings, {len(new)} new slices, {len(whole)} 3D boxes, {len(switches)} adapters, {len(corrected)} "
        f"points; over HTTP, less than {ASKED_MORE_OVER_HTTP} ms more are asked for\n"
    )
    rows = {
        "box, embedding kept": (median(kept), ASKED_KEPT.get(options.sam_variant, "")),
        "box, new slice": (median(new), ASKED_NEW.get((options.sam_variant, size), "")),
        f"3D box of {regions[0].shape[2]} new slices": (median(whole), ""),
        "another adapter, from disk": (median(switches), ""),
        "a point in a slice of the 3D mask": (median(corrected), ""),
    }
    print("| a slice of 512 x 512 | ms | ms over HTTP | asked, ms |\n| --- | --: | --: | --: |")
    for (name, (here, asked)), there in zip_longest(rows.items(), over_http, fillvalue=""):
        print(f"| {name} | {here:.0f} | {there if there == '' else format(there, '.0f')} | {asked} |")


def regions_of(slices: int, count: int) -> list[Region]:
    """3D boxes of so many slices each, none of which has a slice of another."""
    starts = [FIRST + number * slices for number in range(count)]
    return [Region((120, 140, start), (380, 330, start + slices)) for start in starts]


def switch_adapters(session: VolumeSession, shelf: AdapterShelf) -> list[float]:
    """Milliseconds until a session uses another adapter, LoRA with COBOT, that was not loaded before."""
    with tempfile.TemporaryDirectory() as folder:
        adapter = adapt(copy.deepcopy(shelf.base.network.sam).cpu(), "lora", orchestrate=True)
        folders = [save_adapter(adapter, Path(folder) / str(number)) for number in range(3)]
        return [timed(lambda path=path: session.use(shelf.load(path))) for path in folders]


@contextmanager
def served(sam: torch.nn.Module, options: argparse.Namespace) -> Iterator[str]:
    """The address of a server with the same SAM, in a process of its own, without a look ahead."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log.txt", "wb") as log:
        checkpoint = Path(folder) / "sam.pth"
        torch.save(sam.state_dict(), checkpoint)
        command = [sys.executable, "-m", "monai_cobot", "serve", "--studies", str(Path(folder) / "studies")]
        command += ["--port", str(port), "--no-look-ahead", "--device", options.device, "--backend", options.backend]
        command += ["--sam-variant", options.sam_variant, "--sam-checkpoint", str(checkpoint)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while not answers(port):
                if process.poll() is not None:
                    sys.exit((Path(folder) / "log.txt").read_text(encoding="utf-8"))
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    """Whether something listens."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def measured_over_http(
    address: str, model: str, array: np.ndarray, regions: list[Region], repeats: int
) -> tuple[float, float, float]:
    """What the user of the module COBOT in 3D Slicer waits for; the rows of the table, in milliseconds."""
    sys.path.insert(0, str(REPOSITORY / "SlicerCOBOT"))
    from COBOTLib.engines.base import Scan
    from COBOTLib.engines.monai_label import MonaiLabelEngine
    from COBOTLib.grid import Grid, VoxelBox
    from COBOTLib.jobs import Job
    from COBOTLib.prompts import RegionPrompt, SlicePrompt

    engine, job = MonaiLabelEngine(address), Job(lambda job: None)
    scan = Scan("1", "CT", np.ascontiguousarray(array.transpose(2, 1, 0)), Grid(AFFINE, array.shape))
    x0, y0, x1, y1 = (int(edge) for edge in BOX)

    def in_slice(k: int) -> float:
        prompt = SlicePrompt(2, k, VoxelBox((x0, y0, k), (x1, y1, k + 1)))
        return timed(lambda: engine.segment(scan, prompt, model, "ct_abdomen", job))

    in_slice(0)  # sends the scan, and warms up
    kept = [in_slice(0) for _ in range(repeats)]
    new = [in_slice(n) for n in range(1, 1 + min(5, repeats))]
    boxes = [RegionPrompt(2, VoxelBox(region.low, region.high)) for region in regions]
    whole = [timed(lambda box=box: engine.segment(scan, box, model, "ct_abdomen", job)) for box in boxes]
    return median(kept), median(new), median(whole)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
