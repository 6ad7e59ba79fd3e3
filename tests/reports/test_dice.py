import math

import pytest

from monai_cobot.reports import CaseScores, dice_coefficient


def test_dice_is_twice_the_overlap_over_the_sum_of_both_masks():
    assert dice_coefficient(intersection=30, prediction=40, truth=60) == 0.6


def test_two_empty_masks_agree():
    assert dice_coefficient(0, 0, 0) == 1.0


def test_a_prediction_where_there_is_nothing_scores_nothing():
    assert dice_coefficient(0, 5, 0) == 0.0


@pytest.mark.parametrize("counts", [(-1, 2, 2), (3, 2, 4), (3, 4, 2), (0, math.inf, 1), (0, math.nan, 1)])
def test_impossible_numbers_of_voxels_are_refused(counts):
    with pytest.raises(ValueError, match="numbers of voxels"):
        dice_coefficient(*counts)


def test_the_mean_weighs_labels_alike_however_many_cases_they_have():
    scores = CaseScores()
    for case, dice in enumerate((0.2, 0.4, 0.6)):
        scores.add(f"case_{case}", "liver", dice)
    scores.add("case_0", "spleen", 0.8)
    assert scores.mean_by_label() == pytest.approx({"liver": 0.4, "spleen": 0.8})
    assert scores.mean() == pytest.approx(0.6)


def test_the_summary_gives_the_sample_standard_deviation_and_none_for_a_single_case():
    scores = CaseScores({("a", "liver"): 0.2, ("b", "liver"): 0.4, ("a", "spleen"): 0.5})
    liver, spleen = scores.summary()
    assert (liver.label, liver.cases) == ("liver", 2)
    assert liver.standard_deviation == pytest.approx(0.1 * math.sqrt(2))
    assert spleen.cases == 1
    assert math.isnan(spleen.standard_deviation)


def test_a_case_is_scored_once():
    scores = CaseScores()
    scores.add("a", "liver", 0.5)
    with pytest.raises(ValueError, match="'a', label 'liver' has a DSC already"):
        scores.add("a", "liver", 0.6)


@pytest.mark.parametrize("dice", [-0.1, 1.1, 85.3, math.nan])
def test_a_score_off_the_scale_is_refused(dice):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        CaseScores().add("a", "liver", dice)


def test_no_scores_have_no_mean():
    with pytest.raises(ValueError, match="no case has been scored"):
        CaseScores().mean()
