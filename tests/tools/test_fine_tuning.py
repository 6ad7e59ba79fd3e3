"""The table of fine-tuning: what it reads from runs that are done."""

import json
import sys
from pathlib import Path

import fine_tuning
import pytest


def test_the_table_is_made_of_the_runs_scores_and_a_run_that_is_done_is_not_done_again(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for method, gain in (("decoder_only", 0.1), ("adaptformer_cobot", 0.2)):
        folder = tmp_path / "sarcoma_mr" / method
        folder.mkdir(parents=True)
        (folder / "done.json").write_text('{"seconds": 90}', encoding="utf-8")
        scores = (
            f"case,label,dice_ellipse,dice_zero-shot,dice_fine-tuned\nSTS_005,tumour,0.500,0.600,{0.6 + gain:.3f}\n"
        )
        (folder / "scores.csv").write_text(scores, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["", "--data", str(shared_data), "--only", "sarcoma_mr", "--to", str(tmp_path)])
    fine_tuning.main()
    table = (tmp_path / "fine_tuning.md").read_text(encoding="utf-8")
    assert table.splitlines()[-1] == "| sarcoma, MR | 1 | 0.500 | 0.600 | 0.700 | 0.800 | 1.5 and 1.5 |"
    assert table in capsys.readouterr().out


def test_no_patient_of_the_sarcoma_list_is_in_both_parts(tmp_path: Path, shared_data: Path) -> None:
    options = fine_tuning.sarcoma_list(shared_data / "STS_CT_MR", "CT", "ct_abdomen", tmp_path)
    content = json.loads(Path(options["dataset_dir"]).read_text(encoding="utf-8"))
    training, validation = ([entry["name"] for entry in content[part]] for part in ("training", "validation"))
    assert (len(training), len(validation)) == (3, 1)
    assert not set(training) & set(validation)


def test_a_mean_over_labels_weighs_a_rare_label_as_much_as_another(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("case,label,dice\na,liver,0.8\nb,liver,0.6\nc,liver,0.7\na,spleen,0.1\n", encoding="utf-8")
    assert fine_tuning.summary(path, "dice").startswith("0.400 ±")
