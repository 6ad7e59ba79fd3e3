"""Random numbers and random smooth fields."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def uniform(generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Numbers drawn uniformly from [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def log_uniform(generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Numbers whose logarithm is drawn uniformly, between two positive limits."""
    return uniform(generator, shape, math.log(low), math.log(high)).exp()


def normal(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Numbers of the standard normal distribution."""
    return torch.randn(shape, generator=generator, device=generator.device)


def happens(generator: Generator, shape: tuple[int, ...], probability: float | Tensor) -> Tensor:
    """Booleans that are true with a probability."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def pick(generator: Generator, low: float, high: float) -> float:
    """One number drawn uniformly, for choices that a group of images shares."""
    return float(uniform(generator, (), low, high))


def between(share: float, start: float, end: float) -> float:
    """The number that lies this share, in [0, 1], of the way from one to another."""
    return start + share * (end - start)


def log_between(share: float, start: float, end: float) -> float:
    """The number that lies this share, in [0, 1], of the way between two positive ones on a logarithmic scale."""
    return start * (end / start) ** share


def smooth_noise(
    generator: Generator, shape: tuple[int, int], size: tuple[int, int], cells: tuple[float, float]
) -> Tensor:
    """Gaussian noise whose structures have one length everywhere.

    Args:
        generator: source of the noise.
        shape: images and channels, (B, C).
        size: rows and columns.
        cells: structures along the rows' and the columns' axis over the whole field; at most ``size``.

    Returns:
        (B, C, rows, columns) with mean 0 and a standard deviation of about 1.
    """
    # a margin keeps the interpolation at the border from seeing the same values twice
    coarse = (min(size[0], round(cells[0]) + 3), min(size[1], round(cells[1]) + 3))
    noise = normal(generator, (*shape, *coarse))
    if coarse == size:
        return noise
    return 1.4 * F.interpolate(noise, size, mode="bicubic", align_corners=True)
