"""What fine-tuning gains on real scans: ``python tools/fine_tuning.py``.

Each set is trained by the bundle as a user would, for a few minutes, with AdaptFormer and COBOT and with the mask
decoder alone, by patient, and validated once, after the last epoch, so that no epoch is chosen on the patients that are
reported. It writes ``fine_tuning.md``; each run has its own folder with curves, overlays and scores by case. A run that
is done is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from monai_cobot.files import write_atomically


@dataclass(frozen=True)
class Choice:
    """A set or a method, of which every run has one each.

    Attributes:
        folder: part of the run's folder.
        title: in the table.
        options: of the bundle.
    """

    folder: str
    title: str
    options: dict[str, str]


METHODS = (
    Choice("decoder_only", "decoder alone", {"method": "decoder_only", "orchestrate": "False"}),
    Choice("adaptformer_cobot", "AdaptFormer + COBOT", {"method": "adaptformer", "orchestrate": "True"}),
)


def data_sets(data: Path, to: Path) -> list[Choice]:
    """The sets below a folder; what has no list of its files gets one in ``to``."""
    small = {"slices_per_epoch": "256", "epochs": "10"}
    hippocampus = {"dataset": "momo", "dataset_dir": str(data / "Task04_Hippocampus"), "max_cases": "60"}
    breast = {"dataset": "brast", "dataset_dir": str(data / "Dataset_BUSI_with_GT")}
    head = {"dataset": "segrap", "dataset_dir": str(data / "OpenKBP_HeadNeck"), "preset": "ct_head_neck"}
    sarcoma = data / "STS_CT_MR"
    return [
        Choice("hippocampus", "hippocampus, MR", hippocampus | small | {"min_foreground": "50"}),
        Choice("breast", "breast, ultrasound", breast | {"epochs": "20"}),
        Choice("head_and_neck", "head and neck, CT", head | small | {"min_foreground": "10", "max_jitter": "1"}),
        Choice("sarcoma_ct", "sarcoma, CT", sarcoma_list(sarcoma, "CT", "ct_abdomen", to) | {"epochs": "10"}),
        Choice("sarcoma_mr", "sarcoma, MR", sarcoma_list(sarcoma, "MR_T1", "mr", to) | {"epochs": "10"}),
    ]


def sarcoma_list(folder: Path, modality: str, preset: str, to: Path) -> dict[str, str]:
    """Options for the four patients of STS: three for training, the last for validation."""
    entries = [
        {"image": str(image.resolve()), "label": str((image.parent / f"{modality}_mask.nii.gz").resolve())}
        | {"name": image.parent.name}
        for image in sorted(folder.glob(f"*/{modality}_image.nii.gz"))
    ]
    content = {"training": entries[:-1], "validation": entries[-1:], "labels": {"tumour": 1}}
    path = write_atomically(to / f"sarcoma_{modality}.json", json.dumps(content, indent=1).encode())
    return {"dataset": "msd", "dataset_dir": str(path), "preset": preset, "min_foreground": "50"}


def train(options: dict[str, str], folder: Path) -> tuple[Path, float]:
    """Train with the bundle unless that was done; the scores' file and the seconds that it took.

    Validated once, after the last epoch.
    """
    done = folder / "done.json"
    if not done.exists():
        options = options | {"output_dir": str(folder), "val_interval": options["epochs"]}
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundles/cobot_sam/configs/train.json"]
        for name, value in options.items():
            command += [f"--{name}", value]
        start = time.monotonic()
        subprocess.run(command, check=True)
        write_atomically(done, json.dumps({"seconds": time.monotonic() - start}).encode())
    return folder / "scores.csv", json.loads(done.read_text(encoding="utf-8"))["seconds"]


def read_scores(path: Path, column: str) -> dict[str, list[float]]:
    """Label -> a column's DSC of each patient."""
    scores: dict[str, list[float]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scores.setdefault(row["label"], []).append(float(row[column]))
    return scores


def mean_over_labels(scores: dict[str, list[float]]) -> float:
    """The mean over labels of the mean over patients."""
    return fmean(fmean(values) for values in scores.values())


def summary(path: Path, column: str) -> str:
    """Mean over labels of the mean over patients, and the deviation over all of them."""
    scores = read_scores(path, column)
    values = [value for values in scores.values() for value in values]
    mean = f"{mean_over_labels(scores):.3f}"
    return f"{mean} ± {stdev(values):.3f}" if len(values) > 1 else mean


def main() -> None:
    """Run the command from the project's root."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the folders that docs/data.md lists")
    parser.add_argument("--only", nargs="+", help="sets by the names of their folders, such as hippocampus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("runs/fine_tuning"), help="folder for the runs and the table")
    arguments = parser.parse_args()

    titles = [method.title for method in METHODS]
    header = ["", "patients and labels", "ellipse", "zero-shot", *titles, "minutes"]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for of in data_sets(arguments.data, arguments.to):
        if arguments.only and of.folder not in arguments.only:
            continue
        runs = []
        for method in METHODS:
            options = of.options | method.options | {"seed": str(arguments.seed)}
            runs.append(train(options, arguments.to / of.folder / method.folder))
        path = runs[-1][0]
        count = len(path.read_text(encoding="utf-8").splitlines()) - 1
        cells = [str(count), summary(path, "dice_ellipse"), summary(path, "dice_zero-shot")]
        cells += [summary(scores, "dice_fine-tuned") for scores, _ in runs]
        minutes = " and ".join(f"{seconds / 60:.1f}" for _, seconds in runs)
        lines.append("| " + " | ".join([of.title, *cells, minutes]) + " |")
        write_atomically(arguments.to / "fine_tuning.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
