import sys

from monai_cobot.errors import explain_errors, root_cause


def test_the_root_cause_is_the_first_error_of_a_chain():
    first = ValueError("the reason")
    second, last = RuntimeError("could not build"), RuntimeError("could not run")
    second.__cause__, last.__cause__ = first, second
    assert root_cause(last) is first


def test_a_program_that_uses_a_bundle_as_a_library_keeps_its_own_error_handling(tmp_path):
    before = sys.excepthook
    assert not explain_errors(tmp_path)
    assert sys.excepthook is before
