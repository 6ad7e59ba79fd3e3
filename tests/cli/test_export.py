import pytest
import torch

from monai_cobot.inferers import AdapterShelf
from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, save_adapter


def test_torchscript_computes_what_the_adapted_network_does(cobot, adapter_folder, tmp_path):
    ended = cobot("export", tmp_path / "out", "--format", "torchscript", "--adapter", adapter_folder)
    assert ended.code == 0, ended.err
    network = AdapterShelf(build_sam("vit_mini", image_size=64)).load(adapter_folder).network
    image, boxes = torch.rand(1, 3, 64, 64), torch.tensor([[[5.0, 9, 40, 50], [1, 2, 30, 60], [7, 7, 60, 60]]])
    with torch.no_grad():
        logits, _ = torch.jit.load(tmp_path / "out" / "decoder.ts")(
            torch.jit.load(tmp_path / "out" / "encoder.ts")(image), boxes
        )
        assert torch.allclose(logits, network(image, boxes), atol=1e-3)


def test_an_adapter_with_classes_is_exported_by_the_bundle(cobot, tmp_path):
    folder = save_adapter(
        adapt(build_sam("vit_mini", image_size=64), "lora", classes=1), tmp_path / "classes", labels={"ball": 1}
    )
    ended = cobot("export", tmp_path / "out", "--format", "torchscript", "--adapter", folder)
    assert ended.code == 2
    said = " ".join(ended.err.replace("│", " ").split())
    assert "Invalid value for --adapter" in said
    assert "with the bundle: save_network, then ckpt_export" in said
    assert not (tmp_path / "out").exists()


def test_files_that_compute_something_else_are_not_kept_and_replace_nothing(
    cobot, adapter_folder, tmp_path, monkeypatch
):
    (tmp_path / "decoder.ts").write_bytes(b"a good one")
    load = torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda file: lambda *inputs: _doubled(load(file)(*inputs)))
    ended = cobot("export", tmp_path, "--format", "torchscript", "--adapter", adapter_folder)
    assert ended.code == 1
    assert "was not kept: encoder.ts by 1.0e+00, decoder.ts by 1.0e+00" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["decoder.ts"]
    assert (tmp_path / "decoder.ts").read_bytes() == b"a good one"


def _doubled(outputs):
    return tuple(2 * output for output in outputs) if isinstance(outputs, tuple) else 2 * outputs


def test_onnx_files_are_compared_with_pytorch_and_take_any_number_of_boxes(cobot, adapter_folder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason='ONNX needs the extra "export"')
    pytest.importorskip("onnxscript", reason='ONNX needs the extra "export"')
    ended = cobot("export", tmp_path / "out", "--adapter", adapter_folder)
    assert ended.code == 0, ended.err
    assert ended.out.count("differs from PyTorch by") == 2
    network = AdapterShelf(build_sam("vit_mini", image_size=64)).load(adapter_folder).network
    image, boxes = torch.rand(1, 3, 64, 64), torch.tensor([[[5.0, 9, 40, 50], [1, 2, 30, 60], [7, 7, 60, 60]]])
    encoder, decoder = (
        onnxruntime.InferenceSession(str(tmp_path / "out" / f"{name}.onnx")) for name in ("encoder", "decoder")
    )
    (embedding,) = encoder.run(None, {"image": image.numpy()})
    logits, _ = decoder.run(None, {"embedding": embedding, "boxes": boxes.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(logits), network(image, boxes), atol=1e-3)
