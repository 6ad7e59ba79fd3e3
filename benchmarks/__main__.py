"""What this project costs and gains, in one table: every row is a ratio, measured side by side in the same run.

    python -m benchmarks
    python -m benchmarks --rows encoder decoder --precision bfloat16
    python -m benchmarks --to docs        # the tables and the plot of docs/performance.md; those of other rows stay
    python -m benchmarks --check          # ends with 1 where a row is not what is asked of it

Each row is the median of the rounds' ratios, with the quartiles.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
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
    "slices": pipeline.memory_of_slices,
}
GROWTH = "growth"
PAGE = "performance.md"
END = "<!-- until here -->\n"


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
                picture = (arguments.to or Path()) / picture_of(setting)
                picture.parent.mkdir(parents=True, exist_ok=True)
                plot(growth(setting), picture)
                text = f"{how(setting)}\n\n![Seconds against image size, batch and boxes]({picture_of(setting)})\n"
            else:
                measured = ROWS[name](setting)
                rows += measured
                text = report(setting, measured)
            if arguments.to:  # after each, so that hours are not lost with the last one
                write_into(arguments.to / PAGE, setting, name, text)
    print(report(setting, rows))
    missed = [each for each in rows if not each.holds]
    if arguments.check and missed:
        sys.exit("\n".join(f"not as asked: {' | '.join(each.cells())}" for each in missed))


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
    parser.add_argument("--check", action="store_true", help="end with 1 where a row is not what is asked of it")
    parser.add_argument("--to", type=Path, help=f"folder that gets {PAGE} with the table, and the plot")
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
    return f"{how(setting)}\n\n{table(rows)}"


def how(setting: Setting) -> str:
    """The command, and where and how it measured."""
    device = f"{_processor()}, {torch.get_num_threads()} threads"
    if setting.device.type == "cuda":
        device = torch.cuda.get_device_name(setting.device)
    fast = "" if has_fast_bfloat16(setting.device) else "no products in bfloat16; "
    measured = f"{setting.precision}; {setting.clock} time; medians of {setting.repeats} rounds in turns."
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    return f"`{command}`: {device}; {fast}torch {torch.__version__}; {measured}"


def picture_of(setting: Setting) -> str:
    """The plot's name beside the page."""
    return f"pictures/performance_growth_{setting.device.type}_{setting.precision}.png"


def write_into(page: Path, setting: Setting, name: str, text: str) -> None:
    """Replace the page's part of a group of rows, device and precision; all other parts stay.

    A part that is not there yet comes after the others; a new page is made of it.

    Raises:
        ValueError: a part has no end.
    """
    begin = f"<!-- python -m benchmarks, {setting.device.type}, {setting.precision}: {name} -->\n"
    whole = page.read_text(encoding="utf-8") if page.exists() else ""
    if begin in whole:
        before, _, rest = whole.partition(begin)
        _, found, after = rest.partition(END)
        if not found:
            raise ValueError(f"{page}: the line {END.strip()!r} is missing behind {begin.strip()!r}; put it back.")
    else:
        last = whole.rfind(END)
        place = last + len(END) if last >= 0 else len(whole)
        before, after = whole[:place], whole[place:]
        before += "\n" if last >= 0 else ""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{begin}{text}{END}{after}", encoding="utf-8")


def _processor() -> str:
    """The CPU's name, where Linux says it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return match[1] if match else f"{platform.processor() or platform.machine()} CPU"


if __name__ == "__main__":
    main()
