"""Images of many objects with the mask of every object."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from pretraining.fields import between, happens, log_between, log_uniform, normal, pick, smooth_noise, uniform
from pretraining.looks import LOOKS, between_quantiles
from pretraining.shapes import random_shapes

OBJECTS = 14
"""Objects painted into an image; about half of them are asked for, the others hidden or too small."""

GROUP = 2
"""Images that are drawn together and share look and resolution: so few that they stay in a processor's cache."""

FAINT = 0.45
"""Share of the objects of the hardest images that can hardly be seen, if at all.

They are asked for like others: who draws a box around such an object knows that it is there, and a round shape within
the box is the best answer then.
"""

CONVENTION = 2.0
"""How far from the middle of its edge an object's outline may be drawn, in or out, in widths of that edge.

Who outlines organs has a habit of it, and the box shows which: with all outlines in the middle, a network trusts the
edge more than the box, and stays within lesions that are outlined around their rim.
"""

FEWEST = 5
"""Objects in the easiest images."""

SMALLEST = 10
"""Area of the smallest object that is asked for, in pixels of the resolution that its image was taken with."""


@dataclass(frozen=True)
class Scenes:
    """A batch of generated images.

    Attributes:
        images: (B, 1, S, S) in [0, 1].
        masks: (B, N, S, S), boolean: what belongs to each object and is not hidden by another.
        seen: (B, N), boolean: whether the object is asked for. A person who is shown its box would outline that mask,
            or know that it is there (``FAINT``).
    """

    images: Tensor
    masks: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Difficulty:
    """How hard it is to segment what is drawn.

    Attributes:
        hardest: in [0, 1]. Images are as hard as this or easier, each group at its own level. At 0, objects are few,
            large, of rough outline and even brightness, with strong contrast and without noise; at 1 they are as images
            of patients may be.
        darker: probability that an object is darker than what it lies on.
    """

    hardest: float = 1.0
    darker: float = 0.5


ALL_LEVELS = Difficulty()


def generate(
    generator: Generator, images: int, size: int, group: int = GROUP, difficulty: Difficulty = ALL_LEVELS
) -> Scenes:
    """Draw a batch of images.

    Args:
        generator: source of all choices; its device is where the images are made.
        images: number of images, B.
        size: rows and columns, S.
        group: images drawn together; more of them where a device is fast in large steps.
        difficulty: of the images.

    Returns:
        Images with ``OBJECTS`` objects each, of which easy images show fewer.
    """
    parts = [
        _generate_group(generator, min(group, images - first), size, difficulty) for first in range(0, images, group)
    ]
    return Scenes(
        torch.cat([part.images for part in parts]),
        torch.cat([part.masks for part in parts]),
        torch.cat([part.seen for part in parts]),
    )


def _generate_group(generator: Generator, images: int, size: int, difficulty: Difficulty) -> Scenes:
    """Draw images that share look, resolution and level."""
    level = difficulty.hardest * pick(generator, 0, 1) ** 0.5  # rather hard than easy
    faint = happens(generator, (images, OBJECTS), FAINT * level)
    faint[:, 0] = False  # a body holds all others
    shapes = random_shapes(generator, images, OBJECTS, size, level, faint)
    shapes[:, round(between(level, FEWEST, OBJECTS)) :] = -1
    shapes, has_body = _within_bodies(generator, shapes)
    each = (images, OBJECTS, 1, 1)
    # from crisp to a hundredth of the image and more
    edge = log_uniform(generator, each, 0.0015, log_between(level, 0.0036, 0.012))
    whole = shapes > level * CONVENTION * edge * uniform(generator, each, -1, 1)
    masks = _visible(whole)
    area, whole_area = masks.float().mean((2, 3)), whole.float().mean((2, 3))

    look = tuple(LOOKS.values())[int(pick(generator, 0, len(LOOKS)))]
    taken = round(size * between(level, 1, min(1.0, 2 * pick(generator, 0.1, 0.7))))
    scene = _paint(generator, shapes, edge, has_body, faint, level, difficulty.darker)
    scene = F.interpolate(scene, (taken, taken), mode="bilinear", antialias=True, align_corners=False)
    picture = torch.lerp(between_quantiles(scene, 0, 1), look(generator, scene), level)
    picture = F.interpolate(picture, (size, size), mode="bilinear", align_corners=False)
    seen = (area * taken**2 > SMALLEST) & (area > 0.7 * whole_area) & (faint | _stand_out(picture, masks))
    return Scenes(picture, masks, seen)


def _stand_out(picture: Tensor, masks: Tensor) -> Tensor:
    """Whether masks differ from their surroundings by brightness or texture, if only a little: (B, N)."""
    few, coarse = masks[..., ::2, ::2].float(), picture[..., ::2, ::2]
    around = F.max_pool2d(few, 9, stride=1, padding=4) - few

    def mean(values: Tensor, where: Tensor) -> Tensor:
        return (values * where).sum((2, 3)) / where.sum((2, 3)).clamp_min(1)

    inner, outer = mean(coarse, few), mean(coarse, around)
    squares = coarse.square()
    inner_deviation = (mean(squares, few) - inner.square()).clamp_min(1e-4).sqrt()
    outer_deviation = (mean(squares, around) - outer.square()).clamp_min(1e-4).sqrt()
    brightness = (inner - outer).abs() > 0.02 + 0.15 * inner_deviation
    return brightness | ((inner_deviation / outer_deviation).log().abs() > 0.4)


def _within_bodies(generator: Generator, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """In half of the images the first shape becomes a body that holds all others: shapes, (B,) whether it does."""
    images, _, size, _ = shapes.shape
    column = (images, 1, 1)
    pixels = (torch.arange(size, device=shapes.device) + 0.5) / size
    wobble = smooth_noise(generator, (images, 1), (size, size), (3, 3)).squeeze(1)
    x = (pixels - uniform(generator, column, 0.45, 0.55)) / uniform(generator, column, 0.36, 0.55)
    y = (pixels.unsqueeze(1) - uniform(generator, column, 0.45, 0.55)) / uniform(generator, column, 0.3, 0.5)
    body = 0.4 * (1 - torch.hypot(x, y) + 0.06 * wobble)
    has_body = happens(generator, (images,), 0.5)
    here = has_body.view(-1, 1, 1)
    inside = torch.minimum(shapes[:, 1:], torch.where(here, body - 0.01, 10).unsqueeze(1))
    return torch.cat((torch.where(here, body, shapes[:, 0]).unsqueeze(1), inside), dim=1), has_body


def _visible(whole: Tensor) -> Tensor:
    """Masks without what later objects hide; an object that lies within another one counts as a part of it."""
    few = whole[..., ::2, ::2].flatten(2).float()  # (B, N, pixels)
    shared = few @ few.transpose(1, 2) / few.sum(2).clamp_min(1).unsqueeze(2)  # (B, of N, in N)
    part_of = shared > 0.85
    masks = whole.clone()
    for later in range(1, OBJECTS):
        hides = ~part_of[:, later, :later]  # (B, earlier)
        masks[:, :later] &= ~(whole[:, later : later + 1] & hides[:, :, None, None])
    return masks


def _paint(
    generator: Generator,
    shapes: Tensor,
    edge: Tensor,
    has_body: Tensor,
    faint: Tensor,
    level: float,
    darker: float,
) -> Tensor:
    """Objects over one another, each with brightness, slope, texture and edge of its own: (B, 1, S, S)."""
    images, count, size, _ = shapes.shape
    frame, each = (size, size), (images, count, 1, 1)
    fine, medium, coarse = (
        smooth_noise(generator, (images, 1), frame, (cells, cells)) for cells in (size / 2, size / 6, 8)
    )
    stripes = (smooth_noise(generator, (images, 1), frame, (4, 4)) * 2 + medium).mul(2).sin()
    textures = torch.cat((fine, medium, coarse, stripes), dim=1)  # (B, 4, S, S)
    texture_gain = log_uniform(generator, (images, count + 1, 4, 1, 1), 0.002, 0.05)
    busy = happens(generator, (images, count + 1, 4, 1, 1), 0.06)
    texture_gain = level * torch.where(busy, 3 * texture_gain, texture_gain)

    contrast = log_uniform(generator, each, log_between(level, 0.25, 0.05), 0.45)
    contrast = torch.where(happens(generator, each, darker), -contrast, contrast)
    contrast = torch.where(happens(generator, each, 0.08), 2 * contrast, contrast)
    opacity = torch.where(faint[:, :, None, None], uniform(generator, each, 0, 0.2), 1.0)
    slope = 0.15 * level * normal(generator, (2, *each))
    pixels = torch.linspace(-1, 1, size, device=shapes.device)

    clutter = level * _clutter(generator, images, size)
    scene = uniform(generator, (images, 1, 1, 1), 0.2, 0.8) + clutter
    scene = scene + (textures * texture_gain[:, -1]).sum(1, keepdim=True)
    dark = has_body.view(-1, 1, 1, 1)
    scene = torch.where(dark, 0.02 * fine.abs(), scene)
    for index in range(count):
        cover = (shapes[:, index : index + 1] / edge[:, index : index + 1]).sigmoid()
        under = (scene * cover).sum((2, 3), keepdim=True) / cover.sum((2, 3), keepdim=True).clamp_min(1)
        brightness = under + contrast[:, index : index + 1]
        if index == 0:
            brightness = torch.where(dark, uniform(generator, (images, 1, 1, 1), 0.3, 0.6) + clutter, brightness)
        tilt = slope[0, :, index : index + 1] * pixels + slope[1, :, index : index + 1] * pixels.unsqueeze(1)
        texture = (textures * texture_gain[:, index]).sum(1, keepdim=True)
        # reflected at black, so that contrast is not lost there
        paint = (brightness + contrast[:, index : index + 1].abs() * tilt + texture).abs()
        scene = torch.lerp(scene, paint, opacity[:, index : index + 1] * cover)
    return scene


def _clutter(generator: Generator, images: int, size: int) -> Tensor:
    """What is in an image and never asked for: steps and ramps of brightness between tissues, (B, 1, S, S)."""
    column = (images, 1, 1, 1)
    ramps = smooth_noise(generator, (images, 1), (size, size), (3, 3)) * uniform(generator, column, 0, 0.1)
    noise = smooth_noise(generator, (images, 1), (size, size), (7, 7))
    steps = (noise * log_uniform(generator, column, 3, 30)).sigmoid() - 0.5
    return ramps + steps * uniform(generator, column, 0, 0.35) * happens(generator, column, 0.7)
