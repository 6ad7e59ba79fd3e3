"""The zero-shot table, on one generated case whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zero_shot
from real_sets import REAL_SETS, RealSet

from monai_cobot.data import generate_phantom, open_dataset
from monai_cobot.networks import PromptableSam, build_sam


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_phantom(tmp_path_factory.mktemp("sets") / "phantom", num_cases=2, size=(48, 40, 6))


def test_every_answer_is_scored_for_exact_and_jittered_boxes(phantom: Path) -> None:
    cases = open_dataset("phantom", phantom)
    liver = RealSet("phantom", "phantom", lambda folder: cases.validation, {"liver": cases.labels["liver"]}, "mr", 20)
    network = PromptableSam(build_sam("vit_mini", image_size=64)).eval()
    scores, shown = zero_shot.measure(network, liver, phantom.parent)
    (case,) = scores["liver"]
    assert set(case) == {(answer, seed) for answer in zero_shot.ANSWERS for seed in (None, *zero_shot.SEEDS)}
    assert 0.5 < case["ellipse", None].dice < 1
    assert case["ellipse", 0].dice < case["ellipse", None].dice
    assert shown["title"].startswith("phantom: phantom_001, liver, slice ")
    cells = [cell.strip() for cell in zero_shot.row("liver", [case, case]).strip("|").split("|")]
    assert cells[:3] == ["liver", "2", f"{case['ellipse', None].dice:.3f}"]
    assert len(cells) == 2 + 4 * len(zero_shot.ANSWERS)


def test_a_jittered_box_moves_by_a_tenth_at_most_and_stays_in_the_image() -> None:
    box = torch.tensor([0.0, 10.0, 40.0, 30.0])
    moves = []
    for seed in range(200):
        moved = zero_shot.jittered(box, np.random.default_rng(seed), (32, 64))
        assert (moved >= 0).all()
        assert moved[3] <= 32
        moves.append(moved - box)
    reached = torch.stack(moves).abs().amax(0)
    assert (reached <= torch.tensor([4.0, 2, 4, 2])).all()
    assert (reached > torch.tensor([3.5, 1.8, 3.5, 1.8])).all()


def test_every_real_set_has_cases_with_existing_files(shared_data: Path) -> None:
    for real_set in REAL_SETS:
        cases = real_set.cases(shared_data / real_set.folder)
        assert cases, real_set.name
        for case in cases:
            assert case.image.exists()
            assert all(mask.path.exists() for mask in case.masks)
