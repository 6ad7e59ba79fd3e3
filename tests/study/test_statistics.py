import pytest

from monai_cobot.study.records import Record
from monai_cobot.study.statistics import PairedTest, compare_records, holm, paired_test, patient_scores


def test_the_seeds_and_labels_of_a_patient_are_averaged_and_are_no_further_patients():
    records = [
        Record({}, [("a1", "liver", 0.2), ("a2", "liver", 0.4), ("b", "liver", 1.0)]),
        Record({}, [("a1", "liver", 0.6), ("a2", "liver", 0.8), ("b", "liver", 0.0)]),
    ]
    assert patient_scores(records, {"a1": "a", "a2": "a", "b": "b"}) == pytest.approx({"a": 0.5, "b": 0.5})


def test_six_patients_that_all_gain_have_the_exact_p_of_one_in_thirty_two():
    base = {str(patient): 0.5 for patient in range(6)}
    better = {patient: 0.5 + 0.01 * (int(patient) + 1) for patient in base}
    test = paired_test(base, better)
    assert test.p == pytest.approx(2 / 2**6)
    assert (test.patients, test.better, test.worse) == (6, 6, 0)
    assert test.gain == pytest.approx(0.035)
    assert paired_test(better, base).p == test.p


def test_the_interval_is_the_range_of_the_gain_over_patients_that_are_drawn_anew():
    base = {str(patient): 0.5 for patient in range(200)}
    other = {patient: 0.5 + (0.1 if int(patient) % 2 else -0.06) for patient in base}
    test = paired_test(base, other)
    # the normal distribution's: mean 0.02, deviation 0.08
    assert test.interval == pytest.approx((0.02 - 1.96 * 0.08 / 200**0.5, 0.02 + 1.96 * 0.08 / 200**0.5), abs=0.001)
    assert paired_test(base, other).interval == test.interval
    assert paired_test({"a": 0.5}, {"a": 0.6}).interval is None


def test_the_gain_of_each_seed_is_said_and_what_not_all_have_a_dsc_of_does_not_count():
    of_base = [("a", "liver", 0.2), ("b", "liver", 0.4), ("b", "cyst", 0.0)], [("b", "liver", 0.5)]
    of_other = [("a", "liver", 0.9), ("b", "liver", 0.5)], [("b", "liver", 0.7), ("c", "liver", 1.0)]
    base, other = ([Record({}, scores) for scores in seeds] for seeds in (of_base, of_other))
    test = compare_records(base, other, {"a": "A", "b": "B", "c": "C"})
    assert test.patients == 1
    assert test.seed_gains == pytest.approx((0.1, 0.2))
    assert test.gain == pytest.approx(0.15)


def test_methods_that_are_equal_differ_by_chance():
    assert paired_test({"a": 0.5, "b": 0.6}, {"a": 0.5, "b": 0.6}).p == 1


def test_other_patients_are_not_compared():
    with pytest.raises(ValueError, match="expected the same patients"):
        paired_test({"a": 0.5}, {"b": 0.5})


def test_p_is_corrected_for_the_number_of_tests_and_keeps_their_order():
    tests = [PairedTest(9, 0.1, None, 9, 0, p) for p in (0.04, 0.01, 0.03)]
    # 3 x 0.01; 2 x 0.03; then 0.04 may not come below it
    assert [test.p_adjusted for test in holm(tests)] == pytest.approx([0.06, 0.03, 0.06])
