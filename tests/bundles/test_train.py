"""The bundle's training as users run it: from the command line, killed and resumed, interrupted, on two processes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_cobot.data import generate_phantom, open_dataset
from monai_cobot.errors import root_cause
from monai_cobot.networks import build_sam
from monai_cobot.peft import load_adapter, read_adapter_config

SMALL = {"image_size": 64, "slices_per_epoch": 16, "batch_size": 4, "min_foreground": 30, "label": ["liver", "stomach"]}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantom"
    generate_phantom(folder, num_cases=4, size=(64, 48, 8))
    return folder


def command(
    configs: Path, phantom: Path, output: Path, *, launcher=("-m", "monai.bundle"), files=("train.json",), **options
):
    """The command line of a run, with small defaults."""
    options = {**SMALL, "dataset_dir": str(phantom), "output_dir": str(output), **options}
    paths = [str(configs / name) for name in files]
    config = paths[0] if len(paths) == 1 else str(paths)
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value).replace(" ", ""))]
    return [
        sys.executable,
        *launcher,
        "run",
        "--config_file",
        config,
        *arguments,
    ]


def run_command(arguments, **more) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return subprocess.run(arguments, capture_output=True, encoding="utf-8", timeout=300, env=environment, **more)


def scores_in(path: Path) -> dict[tuple[str, ...], float]:
    """Each number of a table of scores, under the row's case and label and the column."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (row["case"], row["label"], column): float(value)
            for row in csv.DictReader(file)
            for column, value in row.items()
            if column.startswith("dice")
        }


@pytest.fixture(scope="module")
def finished(phantom, tmp_path_factory, configs):
    """A training of three epochs from the command line."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    completed = run_command(command(configs, phantom, output, epochs=3))
    assert completed.returncode == 0, completed.stderr
    return output, completed


def test_a_training_ends_with_a_table_and_the_paths_of_what_it_made(finished):
    output, completed = finished
    assert re.search(r"label +cases +DSC ellipse +DSC zero-shot +DSC fine-tuned +gain", completed.stdout)
    for name in ("best", "curves.png", "overlay.png", "scores.csv"):
        assert (output / name).exists()
        assert str(output / name) in completed.stdout


def test_every_epoch_says_its_loss_and_dsc_also_where_there_is_no_terminal(finished):
    lines = [line for line in finished[1].stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split(",")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("loss" in line and "validation DSC" in line for line in lines)


def test_tensorboard_holds_losses_and_scores(finished):
    steps: dict[str, list[int]] = {}
    for file in (finished[0] / "tensorboard").iterdir():
        events = EventAccumulator(str(file))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            steps.setdefault(tag, []).extend(event.step for event in events.Scalars(tag))
    assert "training_loss" in steps
    assert sorted(steps["val_mean_dice"]) == [0, 1, 2, 3]  # 0: before training


def test_the_adapter_says_what_it_was_trained_on_and_loads(finished):
    config = read_adapter_config(finished[0] / "best")
    assert (config.method, config.variant, config.image_size) == ("adaptformer", "vit_mini", 64)
    assert set(config.labels) == {"liver", "stomach"}
    assert config.preset == "ct_abdomen" or config.preset.startswith("ct_")
    assert config.details["dataset"] == "phantom"
    load_adapter(build_sam("vit_mini", image_size=64), finished[0] / "best")


def test_a_training_that_is_killed_and_resumed_ends_with_the_same_adapter_bit_for_bit(
    finished, phantom, tmp_path, configs
):
    output = tmp_path / "killed"
    arguments = command(configs, phantom, output, epochs=3)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", env=environment
    )
    for line in process.stdout:
        if line.startswith("epoch 1/3"):
            break
    deadline = time.monotonic() + 30
    while not (output / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # into the next epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (output / "checkpoint.pt").exists()
    assert not (output / "curves.png").exists()

    resumed = run_command([*arguments, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after epoch" in resumed.stdout
    for name in ("best", "last"):
        whole = load_file(finished[0] / name / "adapter_model.safetensors")
        again = load_file(output / name / "adapter_model.safetensors")
        assert whole.keys() == again.keys()
        assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert (output / "scores.csv").read_text(encoding="utf-8") == (finished[0] / "scores.csv").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("changed", ["precision", "feature_cache_type", "cases for training"])
def test_a_training_is_not_resumed_with_what_would_change_it(finished, phantom, tmp_path, run, changed):
    options = {changed: "bfloat16"}
    if changed == "cases for training":
        split = open_dataset("phantom", phantom)
        names = {"training": [case.name for case in split.training[1:]], "validation": [split.validation[0].name]}
        (tmp_path / "split.json").write_text(json.dumps(names), encoding="utf-8")
        options = {"split": str(tmp_path / "split.json")}
    shutil.copy(finished[0] / "checkpoint.pt", tmp_path)
    where = {"dataset_dir": str(phantom), "output_dir": str(tmp_path)}
    with pytest.raises(RuntimeError) as caught:
        run("train", "train", **SMALL, **where, epochs=4, resume=True, **options)
    assert re.search(rf"begun with other options: {changed} was [^;]+\. Resume it", str(root_cause(caught.value)))


def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(phantom, tmp_path, configs, run):
    options = {"epochs": 2, "method": "lora", "blocks": 2, "learning_rate": 1e-4, "precision": "float32"}
    run("train", "train", dataset_dir=str(phantom), output_dir=str(tmp_path / "one"), **SMALL, **options)
    two = run_command(
        command(
            configs,
            phantom,
            tmp_path / "two",
            launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle"),
            files=("train.json", "multi_gpu_train.json"),
            **{**options, "batch_size": 2},
        )
    )
    assert two.returncode == 0, two.stderr
    losses = [
        [record["loss"] for record in torch.load(tmp_path / name / "checkpoint.pt")["history"]["epochs"][1:]]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert len(losses[0]) == 2
    assert list((tmp_path / "two" / "features").rglob("*.safetensors"))
    one, both = (scores_in(tmp_path / name / "scores.csv") for name in ("one", "two"))
    assert one.keys() == both.keys()
    assert one == pytest.approx(both, abs=0.01)  # a logit that is about 0 is rounded to the other side


def test_ctrl_c_keeps_the_best_adapter_and_says_so(phantom, tmp_path, configs):
    output = tmp_path / "interrupted"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    arguments = command(configs, phantom, output, epochs=50)
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment
    )
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith(("epoch 2/50", "epoch 6/50")):  # again, where Python was in a place that ignores it
            process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=120)
    text = "".join(printed) + rest
    assert process.returncode == 130, errors
    assert "with --resume at its end" in text
    assert "DSC fine-tuned" in text
    load_adapter(build_sam("vit_mini", image_size=64), output / "best")


def test_a_mistake_ends_with_its_reason_not_with_a_traceback(phantom, tmp_path, configs):
    completed = run_command(command(configs, phantom, tmp_path / "output", epoch=3))
    assert completed.returncode != 0
    last = completed.stderr.strip().splitlines()[-2:]
    assert last[0].startswith("Error: there is no option --epoch in")
    assert "Traceback" in (tmp_path / "output" / "traceback.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "pancreas"}, "there is no label 'pancreas'; there are liver = 1"),
        ({"method": "prefix"}, "Unknown method 'prefix'; choose one of"),
    ],
)
def test_an_option_that_cannot_be_is_told(phantom, tmp_path, run, options, message):
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run("train", "train", **{**SMALL, "dataset_dir": str(phantom), "output_dir": str(tmp_path), **options})
    assert message in str(root_cause(caught.value))


def test_bad_cases_are_skipped_with_their_reasons_and_the_good_ones_trained_on(phantom, tmp_path, configs):
    folder = tmp_path / "phantom"
    generate_phantom(folder, num_cases=4, size=(64, 48, 8))
    split = tmp_path / "split.json"
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    names = sorted(Path(case["image"]).name for case in content["training"] + content.get("validation", []))
    stems = [name.removesuffix(".nii.gz") for name in names]
    split.write_text(json.dumps({"training": stems[:3], "validation": stems[3:]}), encoding="utf-8")
    broken = folder / "imagesTr" / names[0]
    broken.write_bytes(broken.read_bytes()[:500])
    (folder / "imagesTr" / names[1]).unlink()
    completed = run_command(command(configs, folder, tmp_path / "output", epochs=1, split=split))
    assert completed.returncode == 0, completed.stderr
    assert names[0] in completed.stderr
    assert names[1] in completed.stderr
    assert (tmp_path / "output" / "best" / "adapter_model.safetensors").exists()


def test_monais_workflow_runs_and_a_training_without_gain_stops_early(
    phantom, tmp_path, configs, monkeypatch, repository
):
    monkeypatch.chdir(repository)
    workflow = ConfigWorkflow(
        config_file=str(configs / "train.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type="train",
        dataset_dir=str(phantom),
        output_dir=str(tmp_path / "run"),
        epochs=5,
        learning_rate=0.0,
        patience=2,
        **SMALL,
    )
    workflow.initialize()
    assert not workflow.check_properties()
    workflow.run()
    workflow.finalize()
    assert workflow.max_epochs == 5
    assert workflow.trainer.state.epoch == 3
    assert read_adapter_config(tmp_path / "run" / "best").details["epoch"] == 1
    assert read_adapter_config(tmp_path / "run" / "last").details["epoch"] == 3
