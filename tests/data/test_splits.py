import json
from pathlib import Path

import pytest

from monai_cobot.data import Case, split_by_file, split_by_fraction, split_by_own
from monai_cobot.data.splits import take_cases


def cases(count: int = 10, a_patient: int = 2) -> list[Case]:
    return [Case(f"c{n}", Path(f"c{n}.nii"), (), f"p{n // a_patient}") for n in range(count)]


def patients(side: list[Case]) -> set[str]:
    return {case.patient for case in side}


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_a_fraction_divides_patients_and_leaves_both_sides_some(fraction: float) -> None:
    for seed in range(5):
        training, validation = split_by_fraction(cases(), fraction, seed)
        assert not patients(training) & patients(validation)
        assert len(training) + len(validation) == 10
        assert len(patients(validation)) == min(max(1, round(5 * fraction)), 4)


def test_the_seed_alone_decides_and_not_the_order_of_the_cases() -> None:
    first = split_by_fraction(cases(40), 0.25, 3)
    again = split_by_fraction(cases(40)[::-1], 0.25, 3)
    assert patients(first[1]) == patients(again[1]) != patients(split_by_fraction(cases(40), 0.25, 4)[1])


def test_a_fraction_that_leaves_no_choice_is_refused() -> None:
    for fraction in (0, 1, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_by_fraction(cases(), fraction, 0)
    with pytest.raises(ValueError, match="two patients"):
        split_by_fraction(cases(2), 0.5, 0)


def test_a_file_names_cases_or_patients(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"training": ["p0", "c4"], "validation": ["c9"]}), encoding="utf-8")
    training, validation = split_by_file(cases(), path)
    assert [case.name for case in training] == ["c0", "c1", "c4"]
    assert [case.name for case in validation] == ["c9"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"training": ["c0"], "validation": ["c77"]}', "'c77'"),
        ('{"training": ["c0"], "validation": ["c1"]}', "both sides, such as p0"),
        ('{"training": ["c0"], "validation": []}', "no case is left for validation"),
        ('{"training": ["c0"]}', "is expected"),
        ("nonsense", "not valid JSON"),
        ('{"training": ["Müller"]}', "not valid JSON"),
    ],
)
def test_a_file_that_does_not_divide_the_patients_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=said) as error:
        split_by_file(cases(), path)
    assert "split.json" in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent"):
        split_by_file(cases(), tmp_path / "absent.json")


def test_the_data_sets_own_split_must_be_whole() -> None:
    own = [Case(f"c{n}", Path("c"), (), f"p{n}", "training" if n else "validation") for n in range(3)]
    training, validation = split_by_own(own)
    assert [case.name for case in training] == ["c1", "c2"]
    assert [case.name for case in validation] == ["c0"]
    with pytest.raises(ValueError, match="neither"):
        split_by_own([*own, *cases(1)])
    with pytest.raises(ValueError, match="both sides"):
        split_by_own([*own, Case("d", Path("d"), (), "p0", "training")])


def test_fewer_cases_keep_the_proportion_and_both_sides() -> None:
    split = split_by_fraction(cases(40), 0.25, 0)
    training, validation = take_cases(split, 8, 1)
    assert (len(training), len(validation)) == (6, 2)
    assert set(training) <= set(split[0])
    assert set(validation) <= set(split[1])
    assert take_cases(split, 8, 1) == (training, validation)
    assert [len(side) for side in take_cases(split, 2, 1)] == [1, 1]
    assert take_cases(split, 100, 1) == split
    with pytest.raises(ValueError, match="max_cases"):
        take_cases(split, 1, 0)
