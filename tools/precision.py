"""Whether training in bfloat16 costs accuracy: ``python tools/precision.py``.

The hippocampus, 30 patients, AdaptFormer with COBOT, in float32 and in bfloat16, three seeds each, by the bundle. It
prints the validation DSC after the last epoch. A processor without bfloat16 takes the same roundings, slowly.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean, stdev

from fine_tuning import mean_over_labels, read_scores, train

PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Run the command from the project's root."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the folders that docs/data.md lists")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--to", type=Path, default=Path("runs/precision"), help="folder for the runs")
    arguments = parser.parse_args()
    options = {"dataset": "momo", "dataset_dir": str(arguments.data / "Task04_Hippocampus"), "max_cases": "30"}
    options |= {"min_foreground": "50", "slices_per_epoch": "128", "epochs": "4", "val_at_start": "False"}

    lines = ["| precision | " + " | ".join(f"seed {seed}" for seed in arguments.seeds) + " | mean |"]
    lines.append("| --- |" + " ---: |" * (len(arguments.seeds) + 1))
    for precision in PRECISIONS:
        dice = []
        for seed in arguments.seeds:
            path, _ = train(options | {"precision": precision, "seed": str(seed)}, arguments.to / f"{precision} {seed}")
            dice.append(mean_over_labels(read_scores(path, "dice_fine-tuned")))
        cells = [f"{value:.3f}" for value in dice]
        deviation = f" ± {stdev(dice):.3f}" if len(dice) > 1 else ""
        lines.append(f"| {precision} | " + " | ".join(cells) + f" | {fmean(dice):.3f}{deviation} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
