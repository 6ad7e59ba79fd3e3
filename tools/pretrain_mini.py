"""Pretrain ``vit_mini`` on generated images: ``python tools/pretrain_mini.py --minutes 90``.

It continues from the folder's checkpoint where there is one, and so may be stopped and started, also with more minutes
than before. The folder holds ``checkpoint.pt``, ``vit_mini.safetensors`` (averaged weights in half precision, as they
come with the package) and ``log.jsonl``.
"""

import argparse
from pathlib import Path

import torch
from pretraining.network import ResizableSam, initialise
from pretraining.training import Settings, Trainer

from monai_cobot.networks import build_sam, load_checkpoint, load_into


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90, help="training time in all, over all runs in this folder")
    parser.add_argument("--folder", type=Path, default=Path(".work/pretrain"), help="checkpoint, weights and log")
    parser.add_argument("--init", type=Path, help="weights to start from instead of random ones")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="of the images, one after another")
    parser.add_argument("--batch", type=int, default=6, help="images a step")
    parser.add_argument("--learning-rate", type=float, default=8e-4, help="the highest one")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, images and prompts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g}: expected a positive time")

    sam = build_sam("vit_mini")
    initialise(sam, options.seed)
    if options.init is not None:
        load_into(sam, load_checkpoint(options.init))
    settings = Settings(
        folder=options.folder,
        minutes=options.minutes,
        sizes=tuple(options.sizes),
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
        device=torch.device(options.device),
    )
    Trainer(ResizableSam(sam), settings).run()


if __name__ == "__main__":
    main()
