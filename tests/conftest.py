"""What every test may use."""

import locale
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C works in what tests start, all compute in float32, and several workers do not wait for one another."""
    # what runs in the background is started with Ctrl-C ignored, and hands that on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # "auto" is float32 on every machine: what is compared is compared to more digits than bfloat16 has
    torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False
    if "PYTEST_XDIST_WORKER" in os.environ:
        # a worker, and what its tests start: not all cores each
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def own_locale() -> Iterator[None]:
    """Each test begins with the locale of the machine, whatever a library made of it."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    if locale.setlocale(locale.LC_ALL) != before:
        locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images with masks, which is no part of the repository; tests that need it are skipped without.

    It is looked for in ``../shared/data`` beside the checkout, or where ``MONAI_COBOT_SHARED_DATA`` says.
    """
    named = os.environ.get("MONAI_COBOT_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if folder.is_dir():
        return folder.resolve()
    if named:
        pytest.fail(f"MONAI_COBOT_SHARED_DATA={named} is not a folder; correct it, or unset it to skip these tests")
    pytest.skip("needs the real images of ../shared/data (or of the folder named by MONAI_COBOT_SHARED_DATA)")
