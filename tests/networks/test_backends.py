import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import openvino
import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from monai_cobot.networks import PromptableSam
from monai_cobot.networks.backends import BackendError, accelerate, choose_backend
from monai_cobot.peft import Adapter, adapt

BuildSam = Callable[..., Sam]
TOLERANCE = 1e-4
"""Of logits relative to their norm. The same arithmetic in another order differs by about 1e-6."""
TOLERANCE_BFLOAT16 = 0.05
"""A number in bfloat16 has 8 bits, an error of up to 0.004; a block adds a few of them."""

WITHOUT_OPENVINO = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("openvino", "platformdirs"):
            raise ModuleNotFoundError(name)

import importlib.util
sys.meta_path.insert(0, Absent())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "openvino" else real(name, package)
"""


def adapted(sam: Sam, method: str, **options: object) -> Adapter:
    """An adapter that changes what SAM computes, in evaluation mode."""
    adapter = adapt(sam, method, **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    sam.eval()
    return adapter


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("method", "orchestrate", "made_ready"),
    [
        ("lora", False, None),
        ("lora", True, Adapter.merge),
        ("adaptformer", True, None),
        ("adaptformer", True, Adapter.fold),
    ],
    ids=["lora", "lora with COBOT, merged", "adaptformer with COBOT", "adaptformer with COBOT, folded"],
)
def test_openvino_equals_eager_and_leaves_the_network_as_it_was(
    shallow_sam: BuildSam,
    tmp_path: Path,
    method: str,
    orchestrate: bool,
    made_ready: Callable[[Adapter], None] | None,
) -> None:
    adapter = adapted(shallow_sam(), method, orchestrate=orchestrate)
    if made_ready is not None:
        made_ready(adapter)
    network = PromptableSam(adapter.sam)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kinds = [type(module) for module in network.modules()]
    fast = accelerate(network, "openvino", tmp_path)
    assert fast.choice.name == "openvino"
    with torch.no_grad():
        for images, boxes in (
            (random_images(1, 1, 64, 64), None),
            (
                random_images(2, 3, 41, 77),
                torch.tensor([[[3.0, 5, 30, 30], [0, 0, 77, 41]], [[1, 2, 9, 40], [5, 5, 6, 6]]]),
            ),
        ):
            assert relative_difference(fast(images, boxes), network(images, boxes)) < TOLERANCE
    after = network.state_dict()
    assert list(after) == list(before) == list(fast.state_dict())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [type(module) for module in network.modules()] == kinds


@pytest.mark.parametrize("method", ["houlsby", "conv_lora", "ssf", "vpt", "lst", "bitfit", "sam_parser"])
def test_every_method_is_right_in_openvino(shallow_sam: BuildSam, tmp_path: Path, method: str) -> None:
    sam = shallow_sam()
    network = PromptableSam(adapted(sam, method).sam)
    images = random_images(1, 1, 64, 64)
    fast = accelerate(network, "openvino", tmp_path)
    with torch.no_grad():
        assert relative_difference(fast(images), network(images)) < TOLERANCE


def test_what_openvino_cannot_compute_is_refused_and_runs_in_eager(
    shallow_sam: BuildSam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAM-Adapter's high frequencies come from a Fourier transform that OpenVINO does not know."""
    sam = shallow_sam()
    network = PromptableSam(adapted(sam, "sam_adapter").sam, "bfloat16")
    with pytest.raises(BackendError, match=r"cannot convert this image encoder .* choose the backend 'eager'"):
        accelerate(network, "openvino", tmp_path)
    monkeypatch.setattr("monai_cobot.networks.backends.choice.WORTH_CONVERTING", 0)
    assert accelerate(network, "auto", tmp_path).choice.name == "eager"


def test_openvino_in_bfloat16_differs_by_its_rounding_alone(shallow_sam: BuildSam, tmp_path: Path) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a CPU with products in bfloat16 (AMX, AVX-512 BF16); OpenVINO says that this one has none")
    sam = adapted(shallow_sam(), "lora", orchestrate=True).sam
    fast = accelerate(PromptableSam(sam, "bfloat16"), "openvino", tmp_path)
    image = random_images(1, 1, 64, 64)
    with torch.no_grad():
        difference = relative_difference(fast.encode(image), PromptableSam(sam, "float32").encode(image))
    assert TOLERANCE < difference < TOLERANCE_BFLOAT16


def test_compile_equals_eager(random_sam: BuildSam) -> None:
    sam = random_sam(32)
    sam.image_encoder.blocks = sam.image_encoder.blocks[:1]
    adapted(sam, "lora", orchestrate=True)
    network = PromptableSam(sam)
    fast = accelerate(network, "compile")
    assert fast.choice.name == "compile"
    images = random_images(2, 1, 20, 31)
    with torch.no_grad():
        assert relative_difference(fast(images), network(images)) < TOLERANCE


def test_every_step_of_encoding_can_be_asked_for(shallow_sam: BuildSam, tmp_path: Path) -> None:
    network = PromptableSam(shallow_sam())
    image = random_images(1, 1, 64, 64)
    eager, fast = accelerate(network, "eager"), accelerate(network, "openvino", tmp_path)
    *_, embedding = eager.encode_stepwise(image)
    assert torch.equal(embedding.values, eager.encode(image))
    (whole,) = fast.encode_stepwise(image)
    assert whole.depth == embedding.depth
    assert relative_difference(whole.values, embedding.values) < TOLERANCE
    # what is in front of a depth is eager in any case
    assert torch.equal(fast.encode_frozen(image, 2).values, eager.encode_frozen(image, 2).values)


def test_several_threads_may_encode_at_once(shallow_sam: BuildSam, tmp_path: Path) -> None:
    fast = accelerate(PromptableSam(shallow_sam()), "openvino", tmp_path)
    images = [random_images(4, 1, 64, 64)[index : index + 1] for index in range(4)]
    expected = [fast.encode(image) for image in images]
    found: dict[int, Tensor] = {}

    def encode(index: int) -> None:
        for _ in range(3):
            found[index] = fast.encode(images[index])

    threads = [threading.Thread(target=encode, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], embedding) for index, embedding in enumerate(expected))


def test_an_accelerated_network_has_no_gradients_and_is_not_trained(random_sam: BuildSam) -> None:
    network = PromptableSam(random_sam()).train()
    fast = accelerate(network, "eager")
    assert not fast.training
    assert not fast(random_images(1, 1, 64, 64)).requires_grad
    with pytest.raises(BackendError, match="train the network it was made of"):
        fast.train()
    assert fast.eval() is fast


def test_changed_weights_are_an_error_and_not_the_old_answer(shallow_sam: BuildSam, tmp_path: Path) -> None:
    adapter = adapted(shallow_sam(), "lora")
    network = PromptableSam(adapter.sam)
    fast = accelerate(network, "openvino", tmp_path)
    image = random_images(1, 1, 64, 64)
    adapter.load_state_dict({name: 2 * tensor for name, tensor in adapter.state_dict().items()})
    with pytest.raises(BackendError, match=r"have changed since .* call accelerate again"):
        fast(image)
    with torch.no_grad():
        expected = network(image)
    assert relative_difference(accelerate(network, "openvino", tmp_path)(image), expected) < TOLERANCE


def test_auto_says_what_it_took_and_why(random_sam: BuildSam, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="monai_cobot"):
        fast = accelerate(PromptableSam(random_sam()))
    assert fast.choice.name == "eager"
    assert "in float32" in fast.choice.reason
    assert f"The image encoder runs in eager: {fast.choice.reason}." in caplog.messages


def test_auto_takes_openvino_in_bfloat16_for_an_encoder_that_is_worth_it(random_sam: BuildSam) -> None:
    assert "is small" in choose_backend(PromptableSam(random_sam(), "bfloat16")).reason
    assert choose_backend(PromptableSam(random_sam(1024), "float32")).name == "eager"
    network = PromptableSam(random_sam(1024), "bfloat16")
    assert choose_backend(network).name == "openvino"
    network.to("meta")
    assert choose_backend(network).name == "eager"
    with pytest.raises(BackendError, match="runs on a CPU and the network is on meta"):
        choose_backend(network, "openvino")


def test_whatever_keeps_openvino_from_running_auto_takes_the_next(
    random_sam: BuildSam, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the plugin of the CPU cannot be loaded")

    monkeypatch.setattr("monai_cobot.networks.backends.choice.WORTH_CONVERTING", 0)
    monkeypatch.setattr("monai_cobot.networks.backends.openvino.OpenVinoEncoder.__init__", fail)
    network = PromptableSam(random_sam(), "bfloat16")
    assert accelerate(network).choice.name == "eager"
    assert "the plugin of the CPU cannot be loaded" in caplog.text
    with pytest.raises(BackendError, match="RuntimeError: the plugin of the CPU"):
        accelerate(network, "openvino")


def test_without_openvino_auto_takes_the_next_and_says_so() -> None:
    code = f"""{WITHOUT_OPENVINO}
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.networks.backends import BackendError, accelerate, choose_backend
network = PromptableSam(build_sam("vit_mini", image_size=1024), "bfloat16")
choice = choose_backend(network)
assert choice.name == "eager", choice
assert "OpenVINO is not installed" in choice.reason and "pip install" in choice.reason, choice
assert accelerate(network).choice == choice
try:
    accelerate(network, "openvino")
except BackendError as error:
    assert "pip install 'monai-cobot[openvino]'" in str(error), error
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_an_encoder_that_cannot_be_converted_is_an_error_and_auto_takes_the_next(
    shallow_sam: BuildSam, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unknown(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    monkeypatch.setattr("monai_cobot.networks.backends.choice.WORTH_CONVERTING", 0)
    sam = shallow_sam()
    sam.image_encoder.neck = torch.nn.Sequential(sam.image_encoder.neck, Unknown())
    network = PromptableSam(sam, "bfloat16")
    with pytest.raises(BackendError, match=r"OpenVINO .* cannot convert this image encoder"):
        accelerate(network, "openvino", tmp_path)
    fast = accelerate(network, "auto", tmp_path)
    assert fast.choice.name == "eager"
    assert "cannot convert" in caplog.text
    image = random_images(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(fast(image), network(image))


def test_an_unknown_backend_is_refused(random_sam: BuildSam) -> None:
    with pytest.raises(ValueError, match="Unknown backend 'tensorrt': expected one of auto, eager, compile, openvino"):
        accelerate(PromptableSam(random_sam()), "tensorrt")
