"""What every epoch reached."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_cobot.handlers.history import _zero


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("cuda", torch.float64), ("mps", torch.float32)])
def test_losses_are_summed_as_precisely_as_the_device_can(device: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():  # of any device on any computer
        zero = _zero(torch.device(device))
    assert (zero.dtype, zero.device.type) == (dtype, device)
