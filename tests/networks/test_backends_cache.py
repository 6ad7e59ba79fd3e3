import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from segment_anything.modeling import Sam

from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.networks.backends import accelerate
from monai_cobot.networks.backends.openvino import convert_encoder
from monai_cobot.networks.backends.openvino_cache import OpenVinoCache, encoder_digest
from monai_cobot.peft import adapt

BuildSam = Callable[..., Sam]
IMAGE = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
FIRST, SECOND, THIRD, FOURTH = (f"{number:032x}" for number in range(1, 5))


def conversions(caplog: pytest.LogCaptureFixture) -> int:
    return sum("was converted to OpenVINO" in message for message in caplog.messages)


def test_an_encoder_is_converted_once_and_again_where_its_file_is_damaged(
    shallow_sam: BuildSam, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = PromptableSam(shallow_sam())
    with caplog.at_level(logging.INFO, logger="monai_cobot"):
        expected = accelerate(network, "openvino", tmp_path)(IMAGE)
        (entry,) = tmp_path.iterdir()
        for damage, count in ((None, 1), (1000, 2), (-1, 3)):
            if damage is not None:  # one byte of the weights, then the end of them
                content = bytearray((entry / "encoder.bin").read_bytes())
                content = content[:damage] + (
                    bytes([content[damage] ^ 1]) + content[damage + 1 :] if damage > 0 else b""
                )
                (entry / "encoder.bin").write_bytes(content)
            assert torch.equal(accelerate(network, "openvino", tmp_path)(IMAGE), expected)
            assert conversions(caplog) == count
    assert caplog.text.count("is damaged") == 2
    assert [path.name for path in tmp_path.iterdir()] == [entry.name]  # nothing half-written beside it


def test_another_process_loads_what_was_converted(tmp_path: Path) -> None:
    accelerate(PromptableSam(build_sam("vit_mini", image_size=64)), "openvino", tmp_path)
    code = """
import logging, sys
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.networks.backends import accelerate
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
accelerate(PromptableSam(build_sam("vit_mini", image_size=64)), "openvino", sys.argv[1])
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", timeout=300).stdout
    assert "runs in openvino" in output
    assert "was converted" not in output
    assert len(list(tmp_path.iterdir())) == 1


def test_the_digest_is_that_of_everything_that_the_encoder_computes_with(random_sam: BuildSam) -> None:
    def digest_with(change: Callable[[Sam], object], image_size: int = 64) -> str:
        sam = random_sam(image_size)
        torch.manual_seed(0)
        change(sam)
        return encoder_digest(sam.image_encoder)

    def nudge(sam: Sam) -> None:
        with torch.no_grad():
            sam.image_encoder.blocks[3].mlp.lin2.bias[5] += 1e-6

    plain = digest_with(lambda _: None)
    assert digest_with(lambda sam: sam.train()) == plain
    digests = [
        plain,
        digest_with(nudge),
        digest_with(lambda sam: sam.half()),
        digest_with(lambda _: None, 72),
        digest_with(lambda sam: adapt(sam, "adaptformer")),
        digest_with(lambda sam: adapt(sam, "adaptformer", scale=0.2)),
        digest_with(lambda sam: adapt(sam, "adaptformer", orchestrate=True)),
        digest_with(lambda sam: adapt(sam, "adaptformer", orchestrate=True).fold()),
    ]
    assert len(set(digests)) == len(digests)


def test_the_folder_keeps_what_was_used_last_within_its_bound(shallow_sam: BuildSam, tmp_path: Path) -> None:
    model = convert_encoder(shallow_sam().image_encoder)
    OpenVinoCache(tmp_path).put(FIRST, model)
    size = sum(file.stat().st_size for file in (tmp_path / FIRST).iterdir())
    cache = OpenVinoCache(tmp_path, max_bytes=2 * size)
    cache.put(SECOND, model)
    for age, name in enumerate((SECOND, FIRST)):
        os.utime(tmp_path / name, (age, age))
    assert cache.get(SECOND) is not None
    cache.put(THIRD, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SECOND, THIRD]
    OpenVinoCache(tmp_path, max_bytes=1).put(FOURTH, model)
    assert [path.name for path in tmp_path.iterdir()] == [FOURTH]
    assert cache.get(FIRST) is None


def test_what_others_keep_in_the_folder_neither_counts_nor_goes(shallow_sam: BuildSam, tmp_path: Path) -> None:
    foreign = [
        tmp_path / "pip" / "encoder.bin",
        tmp_path / "notes.txt",
        tmp_path / f"{9:032x}",
        tmp_path / f"{8:032x}" / "scan.nii",
        tmp_path / f"{7:032x}" / "encoder.xml" / "inside.xml",
    ]
    for file in foreign:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(1 << 20))
    for path in (*foreign, *tmp_path.iterdir()):
        os.utime(path, (0, 0))  # longest unused
    model = convert_encoder(shallow_sam().image_encoder)
    OpenVinoCache(tmp_path).put(FIRST, model)
    size = sum(file.stat().st_size for file in (tmp_path / FIRST).iterdir())
    OpenVinoCache(tmp_path, max_bytes=2 * size).put(SECOND, model)
    assert (tmp_path / FIRST).exists(), "there is room for both"
    OpenVinoCache(tmp_path, max_bytes=1).put(THIRD, model)
    assert not (tmp_path / FIRST).exists()
    assert all(file.stat().st_size == 1 << 20 for file in foreign)


def test_what_a_killed_process_left_half_written_goes_too(shallow_sam: BuildSam, tmp_path: Path) -> None:
    left = tmp_path / f".{FIRST}.k3j2h1" / FIRST
    left.mkdir(parents=True)
    (left / "encoder.bin").write_bytes(bytes(1 << 20))
    OpenVinoCache(tmp_path, max_bytes=1).put(SECOND, convert_encoder(shallow_sam().image_encoder))
    assert [path.name for path in tmp_path.iterdir()] == [SECOND]


def test_a_folder_that_cannot_be_written_costs_a_warning(
    shallow_sam: BuildSam, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    fast = accelerate(PromptableSam(shallow_sam()), "openvino", tmp_path / "file")
    assert fast(IMAGE).shape == IMAGE.shape
    assert "is not kept" in caplog.text


def test_a_converted_encoder_holds_float32_weights_and_no_adapter_that_could_be_merged(shallow_sam: BuildSam) -> None:
    def products(sam: Sam) -> list[str]:
        model = convert_encoder(sam.image_encoder)
        constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
        assert "f16" not in {node.get_element_type().get_type_name() for node in constants}
        return [node.get_type_name() for node in model.get_ops() if node.get_type_name() == "MatMul"]

    plain, with_lora = shallow_sam(), shallow_sam()
    adapt(with_lora, "lora")
    assert products(with_lora) == products(plain)
