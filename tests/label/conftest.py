"""A MONAI Label server with our app, started as a user starts it, and what it is compared with."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from running_server import ALLOWED, SIZE, Running, free_port, start_server

from monai_cobot.inferers import AdapterShelf
from monai_cobot.label.server import INSTALL
from monai_cobot.networks import build_sam
from monai_cobot.peft import adapt, save_adapter

AFFINE = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, -12], [0, 0, 3.0, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the server here: the same sums in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def monailabel() -> None:
    """Skips where MONAI Label is not installed."""
    missing = [name for name in ("monailabel", "pydicom_seg") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs MONAI Label: {INSTALL}")


def save_ball(folder: Path, number: int) -> None:
    """Adds an image with a bright ellipsoid to a folder, and its label to its folder ``truth``."""
    grid = np.stack(np.meshgrid(np.arange(30), np.arange(28), np.arange(12), indexing="ij"), axis=-1)
    inside = (((grid - (12 + number, 15, 6)) / (8, 6, 4)) ** 2).sum(-1) < 1
    noise = np.random.default_rng(number).normal(0, 20, inside.shape)
    image = (noise + np.where(inside, 150, -20)).round().astype(np.int16)
    nib.save(nib.Nifti1Image(image, AFFINE), folder / f"ball_{number}.nii.gz")
    (folder / "truth").mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), AFFINE), folder / "truth" / f"ball_{number}.nii.gz")


@pytest.fixture(scope="session")
def balls() -> Callable[..., Path]:
    """Makes a folder of images."""

    def make(folder: Path, count: int = 3) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            save_ball(folder, number)
        return folder

    return make


@pytest.fixture(scope="session")
def save_ball_adapter() -> Callable[..., Path]:
    """Saves an adapter with weights that change the output, for vit_mini at 64 pixels."""

    def save(folder: Path, seed: int = 0, **options: object) -> Path:
        adapter = adapt(build_sam("vit_mini", image_size=SIZE), "lora", **options)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in adapter.named_parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        return save_adapter(adapter, folder, preset="window:-100,200", labels={"ball": 1}, details={"axis": "axial"})

    return save


def save_blind_adapter(folder: Path) -> None:
    """Saves an adapter that sees nothing in any image, and takes long for each: vit_mini at 512 pixels."""
    sam = build_sam("vit_mini", image_size=512)
    adapter = adapt(sam, "lora", decoder="full")
    with torch.no_grad():
        # a mask is the product of these two: 5 everywhere, and less than 0 everywhere
        last = [module for module in sam.mask_decoder.output_upscaling if isinstance(module, torch.nn.ConvTranspose2d)]
        for layer, value in ((last[-1], 5.0), *((of.layers[-1], -1.0) for of in _hypernetworks(sam))):
            layer.weight.zero_()
            layer.bias.fill_(value)
    save_adapter(adapter, folder, preset="window:-100,200")


def _hypernetworks(sam):
    return sam.mask_decoder.output_hypernetworks_mlps


@pytest.fixture(scope="session")
def shelf() -> AdapterShelf:
    """What the server computes with, in this process."""
    return AdapterShelf(build_sam("vit_mini", image_size=SIZE))


@pytest.fixture(scope="session")
def start(monailabel: None) -> Iterator[Callable[..., Running]]:
    """Starts servers, which end with the tests; with the address of a DICOM server, its studies are served."""
    servers = []

    def run(studies: Path, *options: str, address: str = "", **variables: str) -> Running:
        port = free_port()
        arguments = ["serve", "--studies", address or str(studies), "--port", str(port), "--image-size", str(SIZE)]
        arguments += ["--precision", "float32"]  # as in this process, on every machine
        command = [sys.executable, "-m", "monai_cobot", *arguments, *options]
        servers.append(start_server(command, studies, port, **variables))
        return servers[-1]

    yield run
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def server(
    start: Callable[..., Running],
    balls: Callable[..., Path],
    save_ball_adapter: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Running:
    """One server for many tests: three generated images, a real CT where there is one, and three adapters."""
    studies = balls(tmp_path_factory.mktemp("label") / "studies")
    save_ball_adapter(studies / "adapters" / "ball")
    save_ball_adapter(studies / "adapters" / "other", seed=1)
    save_blind_adapter(studies / "adapters" / "blind")
    real = Path(os.environ.get("MONAI_COBOT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if real.is_dir():
        shutil.copyfile(real / "Torso_CT_MR" / "example_ct.nii.gz", studies / "torso.nii.gz")
    return start(studies, "--allow-origin", ALLOWED, "--cache-dir", str(studies.parent / "cache"))
