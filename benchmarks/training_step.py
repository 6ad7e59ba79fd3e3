"""What COBOT costs: a training step of the image encoder with it over one without it, measured side by side.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --variant vit_b --image_size 1024 --repeats 7

Steps of both kinds alternate, so that whatever else the machine does hits both. The figure is the median of the ratios
of neighbouring steps; beside it stand the quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from torch import Tensor

from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import adapt


class Step:
    """A training step of a SAM with LoRA or AdaptFormer, forward, backward and Adam, timed."""

    def __init__(self, arguments: argparse.Namespace, method: str, orchestrate: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random weights take as long as others
            sam = build_sam(arguments.variant, image_size=arguments.image_size)
        adapter = adapt(sam, method, orchestrate=orchestrate, decoder="frozen")
        self.network = PromptableSam(sam, arguments.precision).to(arguments.device).train()
        self.optimizer = torch.optim.Adam(adapter.parameter_groups(1e-6))

    def seconds(self, image: Tensor) -> float:
        """How long one step takes."""
        start = _now(image.device)
        self.optimizer.zero_grad()
        self.network.encode(image).float().square().mean().backward()
        self.optimizer.step()
        return _now(image.device) - start


def compare(arguments: argparse.Namespace, method: str) -> tuple[list[float], list[float]]:
    """Seconds of steps without and with COBOT, in the order in which they ran."""
    base, orchestrated = Step(arguments, method, False), Step(arguments, method, True)
    size = base.network.sam.image_encoder.img_size
    image = torch.rand(arguments.batch_size, 3, size, size, device=arguments.device)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(arguments.repeats + 1):
        pair = (base, times[0]), (orchestrated, times[1])
        for step, seconds in pair if number % 2 else pair[::-1]:  # neither is always the first
            seconds.append(step.seconds(image))
    return times[0][1:], times[1][1:]  # without the first, which fills caches


def main() -> None:
    """Prints a table with one row a method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--variant", default="vit_mini")
    parser.add_argument("--image_size", type=int, default=None, help="pixels; the variant's own if left out")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--precision", default="float32", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--repeats", type=int, default=21, help="at least 7")
    arguments = parser.parse_args()
    if arguments.repeats < 7:
        parser.error("a median needs at least 7 repeats")
    print("| method | base, ms | with COBOT, ms | ratio: median | quartiles |\n| --- | --- | --- | --- | --- |")
    for method in ("lora", "adaptformer"):
        base, orchestrated = compare(arguments, method)
        ratios = [with_cobot / without for without, with_cobot in zip(base, orchestrated, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        milliseconds = [f"{1000 * statistics.median(seconds):.1f}" for seconds in (base, orchestrated)]
        print(
            f"| {method} | {milliseconds[0]} | {milliseconds[1]} | {median:.3f} | {low:.3f} to {high:.3f} |", flush=True
        )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
