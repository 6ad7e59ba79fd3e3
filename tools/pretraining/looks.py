"""How a scene appears in an image: like computed tomography, magnetic resonance or ultrasound, or plain."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from pretraining.fields import happens, log_uniform, normal, pick, smooth_noise, uniform


def tomography(generator: Generator, scene: Tensor) -> Tensor:
    """A window on the scene's values, with noise that reconstruction has made smooth to some degree.

    Args:
        generator: source of all choices.
        scene: (B, 1, H, W), about 0 to 1.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    shape = (len(scene), 1, 1, 1)
    noise = _correlated(generator, scene) * log_uniform(generator, shape, 0.005, 0.09)
    # the window lies around the scene's values: what it cuts off, few would look at
    deviation, middle = torch.std_mean(scene, (1, 2, 3), keepdim=True)
    low = middle - uniform(generator, shape, 0.5, 2) * deviation
    high = (middle + uniform(generator, shape, 0.7, 3) * deviation).maximum(low + 0.1)
    return ((scene + noise - low) / (high - low)).clamp(0, 1)


def resonance(generator: Generator, scene: Tensor) -> Tensor:
    """A coil's uneven sensitivity (bias field), noise of a magnitude image (Rician), stretched between percentiles.

    Shapes as in ``tomography``.
    """
    shape = (len(scene), 1, 1, 1)
    bias = smooth_noise(generator, (len(scene), 1), _size(scene), (2, 2)) * uniform(generator, shape, 0, 0.25)
    signal = scene.clamp_min(0) ** uniform(generator, shape, 0.7, 1.5) * bias.exp()
    sigma = log_uniform(generator, shape, 0.005, 0.09)
    magnitude = torch.hypot(signal + sigma * normal(generator, scene.shape), sigma * normal(generator, scene.shape))
    return between_quantiles(magnitude, 0.005, 0.995)


def ultrasound(generator: Generator, scene: Tensor) -> Tensor:
    """Speckle that is wider than deep, compression, attenuation, shadows, a fan-shaped field of view.

    Shapes as in ``tomography``.
    """
    images, rows, columns = len(scene), *_size(scene)
    shape = (images, 1, 1, 1)
    depth = torch.linspace(0, 1, rows, device=scene.device).unsqueeze(1)
    across = torch.linspace(-1, 1, columns, device=scene.device)
    grain = pick(generator, 1.2, 3.5) * rows / 256
    cells = (rows / max(1.0, grain), columns / max(1.0, pick(generator, 1.2, 2.5) * grain))
    amplitude = smooth_noise(generator, (images, 2), (rows, columns), cells).square().sum(1, keepdim=True).sqrt()
    speckle = (amplitude / 1.25).clamp_min(0.05) ** uniform(generator, shape, 0.25, 0.9)  # 1.25: the mean's place

    echo = scene.clamp_min(0.02) * speckle * (-uniform(generator, shape, -0.5, 1.2) * depth).exp()
    start, middle = uniform(generator, shape, 0.1, 0.7), uniform(generator, shape, -0.9, 0.9)
    beneath = ((depth - start) * 20).sigmoid() * (
        (uniform(generator, shape, 0.05, 0.3) - (across - middle).abs()) * 25
    ).sigmoid()
    strength = uniform(generator, shape, 0, 0.9) * happens(generator, shape, 0.5)
    echo = echo * (1 - strength * beneath)
    image = between_quantiles(echo, 0, 0.998) ** uniform(generator, shape, 0.6, 1.1)

    apex = uniform(generator, shape, 0.2, 1.0)
    inside = (across.abs() < 0.25 + math.tan(0.6) * (depth + apex)) & (torch.hypot(across, depth + apex) > 0.15 + apex)
    return torch.where(happens(generator, shape, 0.25) & ~inside, 0.0, image)


def plain(generator: Generator, scene: Tensor) -> Tensor:
    """A little blur and noise. Shapes as in ``tomography``."""
    shape = (len(scene), 1, 1, 1)
    scene = F.avg_pool2d(F.pad(scene, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = _correlated(generator, scene) * log_uniform(generator, shape, 0.003, 0.06)
    return between_quantiles(scene + noise, 0.002, 0.998)


LOOKS = {"tomography": tomography, "resonance": resonance, "ultrasound": ultrasound, "plain": plain}
"""Every look by its name."""


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _correlated(generator: Generator, like: Tensor) -> Tensor:
    """Noise between white and grains of a few pixels, of standard deviation about 1."""
    rows, columns = _size(like)
    grain = pick(generator, 1.0, 3.0)
    return smooth_noise(generator, (len(like), 1), (rows, columns), (rows / grain, columns / grain))


def between_quantiles(image: Tensor, low: float, high: float) -> Tensor:
    """Every image stretched so that two of its quantiles, in [0, 1], become 0 and 1, and clipped: (B, 1, H, W)."""
    values = image.flatten(1).sort(dim=1).values
    last = values.shape[1] - 1
    darkest = values[:, round(low * last)].view(-1, 1, 1, 1)
    brightest = values[:, round(high * last)].view(-1, 1, 1, 1)
    return ((image - darkest) / (brightest - darkest).clamp_min(1e-3)).clamp(0, 1)
