"""What this project costs and gains, in one table: every row is a ratio, measured side by side in the same run.

    python -m benchmarks
    python -m benchmarks --rows encoder decoder --precision bfloat16
    python -m benchmarks --to docs        # the table and the plot of docs/performance.md

Each row is the median of the rounds' ratios, with the quartiles.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from benchmarks import cached, decoder, encoder, memory, orchestration, pipeline
from benchmarks.growth import growth, plot
from benchmarks.timing import LEAST_REPEATS, Row, Setting, table
from monai_cobot.networks import VARIANTS
from monai_cobot.networks.precision import has_fast_bfloat16

ROWS: dict[str, Callable[[Setting], list[Row]]] = {
    "encoder": encoder.forward,
    "training": encoder.training_step,
    "decoder": decoder.decoding,
    "cobot": orchestration.orchestration,
    "cached": cached.cached_epoch,
    "pipeline": pipeline.data_pipeline,
    "memory": memory.memory,
}
GROWTH = "growth"
PAGE, PICTURE = "performance.md", "pictures/performance_growth.png"
BEGIN, END = "<!-- what python -m benchmarks printed -->\n", "<!-- until here -->\n"


def main() -> None:
    """Measure what is asked for, print the table, and write it where asked."""
    arguments = parse()
    console = Console(stderr=True)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        setting = Setting(
            arguments.variant,
            arguments.image_size,
            arguments.device,
            arguments.precision,
            arguments.repeats,
            arguments.clock,
            progress,
        )
        rows: list[Row] = []
        for name in arguments.rows:
            if name == GROWTH:
                picture = (arguments.to or Path()) / PICTURE
                picture.parent.mkdir(parents=True, exist_ok=True)
                plot(growth(setting), picture)
            else:
                rows += ROWS[name](setting)
            if arguments.to:  # after each, so that hours are not lost with the last one
                write_into(arguments.to / PAGE, report(setting, rows))
    print(report(setting, rows))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    names = [*ROWS, GROWTH]
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--variant", choices=list(VARIANTS), help="vit_b; with --quick, vit_mini")
    parser.add_argument("--image_size", type=int, help="pixels; the variant's own if left out, with --quick 64")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="processor: on a busy CPU")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help=f"rounds, at least {LEAST_REPEATS}")
    parser.add_argument("--quick", action="store_true", help="small networks: whether it runs, not how fast")
    parser.add_argument("--to", type=Path, help=f"folder that gets {PAGE} with the table, and {PICTURE}")
    arguments = parser.parse_args()
    arguments.variant = arguments.variant or ("vit_mini" if arguments.quick else "vit_b")
    arguments.image_size = arguments.image_size or (64 if arguments.quick else VARIANTS[arguments.variant].image_size)
    if arguments.repeats < LEAST_REPEATS:
        parser.error(
            f"a median with quartiles needs at least {LEAST_REPEATS} rounds, got --repeats {arguments.repeats}"
        )
    if arguments.device.type == "cuda" and arguments.clock == "processor":
        parser.error("--clock processor does not see what a GPU computes: use --clock wall")
    if arguments.precision == "bfloat16" and not has_fast_bfloat16(arguments.device) and not arguments.quick:
        parser.error(f"{arguments.device} has no products in bfloat16 (AMX, AVX-512 BF16): there is nothing to measure")
    return arguments


def report(setting: Setting, rows: list[Row]) -> str:
    """Where and how it was measured, and the table."""
    device = f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
    if setting.device.type == "cuda":
        device = torch.cuda.get_device_name(setting.device)
    how = f"{setting.precision}; {setting.clock} time; medians of {setting.repeats} rounds in turns."
    return f"{device}; torch {torch.__version__}; {how}\n\n{table(rows)}"


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the page's marks, and show the plot if there is one; a new page is made of them."""
    if (page.parent / PICTURE).exists():
        text += f"\n![Seconds against image size, batch and boxes, segment_anything and this project]({PICTURE})\n"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN) if page.exists() else ("", "", END)
    _, _, after = rest.partition(END)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
