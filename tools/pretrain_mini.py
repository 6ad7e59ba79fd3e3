"""Pretrain ``vit_mini`` on generated images: ``OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 tools/pretrain_mini.py``.

On a processor, one process for each of its cores does more than one with as many threads; ``python
tools/pretrain_mini.py`` is one. The batch is that of each process.

It continues from the folder's checkpoint where there is one, and so may be stopped and started, also with longer stages
than before. The folder holds ``checkpoint.pt``, ``vit_mini.safetensors`` (averaged weights in half precision, as they
come with the package) and ``log.jsonl``. It ends before its last step where held-out images gain no more.
"""

import argparse
from pathlib import Path

import torch
from pretraining.network import ResizableSam, initialise
from pretraining.training import Settings, Stage, Trainer, steps_of

from monai_cobot.handlers import join_processes, leave_processes
from monai_cobot.networks import build_sam, load_checkpoint, load_into


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--stages",
        type=_stage,
        nargs="+",
        default=[
            Stage((64,), 8, 3600),
            Stage((128,), 4, 10000),
            Stage((256,), 2, 3300),
            Stage((128, 256), 2, 2850),
        ],
        metavar="SIZES:BATCH:STEPS",
        help="rows and columns of the images (of several, steps take turns), images of the largest a step, steps",
    )
    parser.add_argument("--folder", type=Path, default=Path(".work/pretrain"), help="checkpoint, weights and log")
    parser.add_argument("--init", type=Path, help="weights to go on from; their steps count as done")
    parser.add_argument("--learning-rate", type=float, default=1.2e-3, help="the highest one")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, images and prompts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)

    sam = build_sam("vit_mini")
    initialise(sam, options.seed)
    if options.init is not None:
        load_into(sam, load_checkpoint(options.init))
    settings = Settings(
        folder=options.folder,
        stages=tuple(options.stages),
        begin=0 if options.init is None else steps_of(options.init),
        learning_rate=options.learning_rate,
        seed=options.seed,
        device=torch.device(options.device),
    )
    join_processes(settings.device)
    Trainer(ResizableSam(sam), settings).run()
    leave_processes()


def _stage(text: str) -> Stage:
    """A stage of the command line; argparse shows this error's text and no other's."""
    try:
        return Stage.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()
