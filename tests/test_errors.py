import sys

import pytest
from monai.bundle import ConfigParser

from monai_cobot.errors import explain_errors, root_cause


def test_what_monais_parser_says_of_an_error_is_passed_over(tmp_path):
    parser = ConfigParser(
        {"text": "$pathlib.Path(@path).read_text(encoding='utf-8')", "path": str(tmp_path / "missing")}
    )
    parser["imports"] = ["$import pathlib"]
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        parser.get_parsed_content("text")
    assert isinstance(root_cause(caught.value), FileNotFoundError)


def test_an_error_that_explains_another_stays(tmp_path):
    (tmp_path / "dataset.json").write_text("{ this is not JSON", encoding="utf-8")
    parser = ConfigParser({"_target_": "monai_cobot.data.open_dataset", "dataset": "msd", "dataset_dir": str(tmp_path)})
    with pytest.raises(RuntimeError, match="Failed to instantiate") as caught:
        parser.get_parsed_content()
    assert str(root_cause(caught.value)).startswith(f"{tmp_path / 'dataset.json'}: this is not valid JSON")


def test_a_program_that_uses_a_bundle_as_a_library_keeps_its_own_error_handling(tmp_path):
    before = sys.excepthook
    assert not explain_errors(tmp_path)
    assert sys.excepthook is before
