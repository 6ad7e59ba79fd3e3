"""The benchmarks that stand for themselves run, and print what their docs say."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch

from monai_cobot.data import cases_of, generate_phantom, load_case, open_dataset
from monai_cobot.inferers import AdapterShelf
from monai_cobot.networks import build_sam


def run(repository: Path, script: str, *arguments: object) -> str:
    command = [sys.executable, str(repository / "benchmarks" / script), *map(str, arguments)]
    ended = subprocess.run(command, cwd=repository, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_time_that_a_user_waits_is_printed_for_each_kind_of_request(repository: Path) -> None:
    shown = run(repository, "interaction.py", "--slices", 2, "--repeats", 2)
    rows = [line.split("|")[1:-1] for line in shown.splitlines() if line.startswith("| ")][2:]
    names = ["box, embedding kept", "box, new slice", "3D box of 2 new slices", "another adapter, from disk"]
    assert [row[0].strip() for row in rows] == [*names, "a point in a slice of the 3D mask"]
    assert all(float(row[1]) > 0 for row in rows)


def test_an_object_in_which_the_model_finds_nothing_counts_as_missed(repository: Path, tmp_path: Path) -> None:
    script = spec_from_file_location("volume_from_boxes", repository / "benchmarks" / "volume_from_boxes.py")
    assert script is not None
    assert script.loader is not None
    script.loader.exec_module(volume_from_boxes := module_from_spec(script))
    cases = open_dataset("phantom", generate_phantom(tmp_path / "phantom", num_cases=4, size=(48, 36, 12)))
    loaded = load_case(cases_of(cases, "validation")[0], cases.labels.values())
    sam = build_sam("vit_mini", image_size=64)
    with torch.no_grad():  # a mask is the product of these two: 5 everywhere, and less than 0 everywhere
        last = [layer for layer in sam.mask_decoder.output_upscaling if isinstance(layer, torch.nn.ConvTranspose2d)]
        ends = [(of.layers[-1], -1.0) for of in sam.mask_decoder.output_hypernetworks_mlps]
        for layer, value in ((last[-1], 5.0), *ends):
            layer.weight.zero_()
            layer.bias.fill_(value)
    truth = loaded.mask(cases.labels["liver"])
    blind = AdapterShelf(sam).base
    found, samples = volume_from_boxes.segment_in_all_ways(loaded, truth, blind, cases.preset, "axial", "liver")
    assert found == dict.fromkeys(volume_from_boxes.WAYS, 0.0)
    assert len(samples) == 3


def test_volumes_from_boxes_are_compared_with_a_box_on_every_slice(repository: Path, tmp_path: Path) -> None:
    data = generate_phantom(tmp_path / "phantom", num_cases=4, size=(48, 36, 12))
    options = ["--dataset", "phantom", "--dataset_dir", data, "--label", "liver", "--cases", 1]
    options += ["--picture", tmp_path / "slices.png"]
    shown = run(repository, "volume_from_boxes.py", *options)
    assert "| label | cases | box on each slice | 3 boxes | 3 boxes, fused | 3D box | 3D box, fused |" in shown
    assert (tmp_path / "slices.png").is_file()
