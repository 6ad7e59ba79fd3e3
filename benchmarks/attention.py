"""The exact forms of attention with SAM's decomposed relative positions, against one another, for each kind of block.

    python -m benchmarks.attention
    python -m benchmarks.attention --clock processor      # on a computer that does other work
    python -m benchmarks.attention --device cuda --precision bfloat16

Prints for each kind of block and form the median time, forward alone and with backward, and how many times faster than
segment_anything's own form it is. ``monai_cobot.networks`` takes "tiles" in float32 on a CPU, "in the product" for
global blocks elsewhere, and "mask" for what is small. "tiles" is measured where it can be taken.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.timing import LEAST_REPEATS, Setting, Work, time_in_turns
from monai_cobot.networks.attention import AttentionForm, attend_masked, attend_widened
from monai_cobot.networks.tiled_attention import TiledAttention

BLOCKS = {
    "ViT-B 1024, global": (1, 12, 64, 64),
    "ViT-B 1024, windows": (25, 12, 14, 14),
    "vit_mini 256, global": (1, 3, 32, 32),
    "vit_mini 256, windows": (16, 3, 8, 8),
}
"""(B, heads, H, W); heads are 64 wide."""


def attend_as_stock(q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor, column_bias: Tensor, scale: float) -> Tensor:
    """segment_anything's own: all logits, biases added, softmax, product."""
    logits = (q.flatten(2, 3) * scale) @ k.flatten(2, 3).mT
    bias = row_bias.unsqueeze(-1) + column_bias.unsqueeze(-2)  # (B, heads, H, W, H, W)
    return (logits + bias.flatten(4, 5).flatten(2, 3)).softmax(-1) @ v.flatten(2, 3)


def attend_by_query_rows(
    q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor, column_bias: Tensor, scale: float
) -> Tensor:
    """A mask for 16 rows of queries of all heads at a time."""
    rows = (x.split(16, dim=2) for x in (q, row_bias, column_bias))
    return torch.cat(
        [attend_masked(part, k, v, row, column, scale) for part, row, column in zip(*rows, strict=True)], dim=2
    )


TILES = "tiles"
FORMS: dict[str, AttentionForm] = {
    "stock": attend_as_stock,
    "mask": attend_masked,
    "mask, 16 rows of queries": attend_by_query_rows,
    "in the product": attend_widened,
    TILES: TiledAttention.apply,
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    if arguments.device.type == "cuda" and arguments.clock == "processor":
        parser.error("--clock processor does not see what a GPU computes: use --clock wall")
    print("| block | form | forward, ms | faster | forward and backward, ms | faster |")
    print("| --- | --- | --- | --- | --- | --- |")
    with Progress(console=Console(stderr=True)) as progress:
        setting = Setting(
            "vit_b", 1024, arguments.device, arguments.precision, arguments.repeats, arguments.clock, progress
        )
        for block in arguments.blocks:
            forward, both = (measure(block, setting, training) for training in (False, True))
            for form in both:
                cells = (f"{1000 * times[form]:.3g} | {times['stock'] / times[form]:.2f}" for times in (forward, both))
                print(f"| {block} | {form} | {' | '.join(cells)} |", flush=True)


def measure(block: str, setting: Setting, training: bool) -> dict[str, float]:
    """Median seconds of each form."""
    tensors = inputs(*BLOCKS[block], setting.device, setting.dtype, requires_grad=training)
    forms = {name: form for name, form in FORMS.items() if name != TILES or _has_tiles(setting)}
    works = {name: _work(form, tensors, training) for name, form in forms.items()}
    seconds = time_in_turns(f"{block}, {'training' if training else 'inference'}", works, setting)
    return {name: statistics.median(values) for name, values in seconds.items()}


def inputs(
    batch: int, heads: int, height: int, width: int, device: torch.device, dtype: torch.dtype, requires_grad: bool
) -> list[Tensor]:
    """q, k, v (B, heads, H, W, 64), laid out as a qkv layer gives them, and the biases (B, heads, H, W, H or W)."""
    q, k, v = torch.randn(batch, height, width, 3, heads, 64).permute(3, 0, 4, 1, 2, 5)
    biases = (torch.randn(batch, heads, height, width, length) for length in (height, width))
    return [x.to(device, dtype).requires_grad_(requires_grad) for x in (q, k, v, *biases)]


def _has_tiles(setting: Setting) -> bool:
    return (setting.device.type, setting.precision) == ("cpu", "float32")


def _work(form: AttentionForm, tensors: list[Tensor], training: bool) -> Work:
    def run() -> None:
        with torch.set_grad_enabled(training):
            out = form(*tensors, 64**-0.5)
            if training:
                torch.autograd.grad(out.square().mean(), tensors)

    return run


if __name__ == "__main__":
    main()
