"""Random shapes: smooth blobs, bent, crescent, hollow, in several parts, rough."""

import math

import torch
from torch import Generator, Tensor

from pretraining.fields import happens, log_between, log_uniform, normal, smooth_noise, uniform

HARMONICS = range(2, 8)

ROUND = 0.7
"""Share of the hardest images' shapes that are nearly ellipses, as most organs and lesions are."""

SMALLEST = 0.012
"""Radius of the smallest shapes, in sides of the image: a spinal cord in a slice of the neck."""


def random_shapes(
    generator: Generator, images: int, count: int, size: int, level: float = 1.0, faint: Tensor | None = None
) -> Tensor:
    """Draw shapes as approximate signed distances to their outlines, the largest of an image first.

    A shape is a disc whose radius varies with the angle (a random trigonometric polynomial), stretched, bent, turned
    and warped by a smooth field. Some lose a disc (crescents, arches, rings), a strip (two parts), or whatever a noise
    field says (rough outlines, many parts).

    Args:
        generator: source of all choices.
        images: number of images, B.
        count: shapes an image, N.
        size: rows and columns, S.
        level: of difficulty, in [0, 1]; the lower, the larger the shapes and the less like an ellipse. The harder it is
            to see an outline, the more there is to gain from knowing that most organs are round.
        faint: (B, N), boolean: shapes that hardly show, and so are round: what nobody sees, no box can tell.

    Returns:
        (B, N, S, S): positive inside, in fractions of the image's side.
    """
    batch = (images, count, 1, 1)
    radius = log_uniform(generator, batch, log_between(level, 0.13, SMALLEST), 0.34).sort(dim=1, descending=True).values
    odd = ~happens(generator, batch, ROUND * level)
    if faint is not None:
        odd &= ~faint[:, :, None, None]
    x, y = _own_coordinates(generator, radius, odd, size)
    rho = torch.hypot(x, y).clamp_min(1e-4)
    distance = _radius_by_angle(generator, x / rho, y / rho, torch.where(odd, 1.0, 0.3), level).sub_(rho)

    # a disc that is cut out: beside the middle it leaves a crescent or an arch, in the middle a ring
    offset_angle = uniform(generator, batch, 0, 2 * math.pi)
    hollow = happens(generator, batch, 0.05 * odd)
    offset = uniform(generator, batch, 0.3, 1.1) * ~hollow
    hole_radius = torch.where(hollow, uniform(generator, batch, 0.35, 0.65), uniform(generator, batch, 0.5, 0.9))
    hole_radius = torch.where(hollow | happens(generator, batch, 0.12 * odd), hole_radius, -10)
    hole = torch.hypot(x - offset * offset_angle.cos(), y - offset * offset_angle.sin()).sub_(hole_radius)
    distance = torch.minimum(distance, hole)

    # a strip that is cut out: two parts
    gap = torch.where(happens(generator, batch, 0.05 * odd), uniform(generator, batch, 0.08, 0.2), -10)
    distance = torch.minimum(distance, (x - uniform(generator, batch, -0.4, 0.4)).abs_().sub_(gap))

    # what a noise field takes away: rough outlines, and parts where it reaches the middle
    for cells, probability in ((9, 0.04), (24, 0.03)):
        noise = smooth_noise(generator, (images, 1), (size, size), (cells, cells))
        bias = torch.where(happens(generator, batch, probability * odd), uniform(generator, batch, 0.3, 1.0), 10)
        distance = torch.minimum(distance, (noise + bias).mul_(0.2))
    return distance.mul_(radius)


def _own_coordinates(generator: Generator, radius: Tensor, bends: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Every pixel's position in the frames of the shapes, where a shape is about a unit disc: (B, N, S, S) each."""
    images, count = radius.shape[:2]
    batch = (images, count, 1, 1)
    pixels = (torch.arange(size, device=radius.device) + 0.5) / size
    warp = smooth_noise(generator, (images, 2), (size, size), (5, 5))
    warp = warp * log_uniform(generator, (images, 1, 1, 1), 0.003, 0.03)
    margin = 0.05 + 0.5 * radius
    x = (pixels + warp[:, :1]) - (margin + (1 - 2 * margin) * uniform(generator, batch, 0, 1))
    y = (pixels.unsqueeze(1) + warp[:, 1:]) - (margin + (1 - 2 * margin) * uniform(generator, batch, 0, 1))

    stretch = torch.where(
        happens(generator, batch, 0.12), uniform(generator, batch, 1.7, 2.6), uniform(generator, batch, 1.0, 1.45)
    )
    angle = uniform(generator, batch, 0, math.pi)
    along = (x * angle.cos()).add_(y * angle.sin()).div_(radius * stretch)
    across = y.mul_(angle.cos()).sub_(x.mul_(angle.sin())).div_(radius / stretch)
    bend = torch.where(bends & happens(generator, batch, 0.3), 0.5 * normal(generator, batch), 0)
    return along, across.add_(bend * (along.square() - 0.3).clamp_max_(2))


def _radius_by_angle(generator: Generator, cosine: Tensor, sine: Tensor, gain: Tensor, level: float) -> Tensor:
    """A random smooth radius of about 1 at every angle, from the angle's cosine and sine: (B, N, S, S)."""
    batch = (*cosine.shape[:2], 1, 1)
    roughness = log_uniform(generator, batch, log_between(level, 0.2, 0.02), log_between(level, 0.3, 0.2)) * gain
    radius = torch.ones_like(cosine)
    c, s = cosine, sine
    for order in HARMONICS:
        c, s = c * cosine - s * sine, s * cosine + c * sine  # of order times the angle
        falloff = roughness / (order - 1)
        radius.add_(falloff * normal(generator, batch) * c).add_(falloff * normal(generator, batch) * s)
    return radius.clamp_min_(0.3)
