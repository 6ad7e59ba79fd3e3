import sys

import pytest

from monai_cobot.networks import PromptableSam, build_sam, exporting
from monai_cobot.networks.exporting import export_onnx


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_each_package_that_is_missing_is_named_before_anything_is_written(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"needs onnx, onnxscript and onnxruntime: pip install .monai-cobot\[export\]"):
        export_onnx(PromptableSam(build_sam("vit_mini", image_size=64)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_one_onnx_file_cannot_hold_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason='ONNX needs the extra "export"')
    pytest.importorskip("onnxscript", reason='ONNX needs the extra "export"')
    monkeypatch.setattr(exporting, "_MOST_BYTES", 1000)
    monkeypatch.setattr(PromptableSam, "encode", None)
    with pytest.raises(ValueError, match="--format torchscript"):
        export_onnx(PromptableSam(build_sam("vit_mini", image_size=64)), tmp_path)
    assert list(tmp_path.iterdir()) == []
