"""A generated abdomen in CT: something to train on where no data set is at hand.

Organs are smooth implicit shapes in millimetres, each with its own bumps, cuts and hollows, placed and bent anew for
every case, so that a box alone does not give the outline away. Nothing in it is taken from a patient.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.random import Generator

from monai_cobot.files import written_beside

__all__ = ["PHANTOM_LABELS", "generate_phantom", "phantom_case"]

PHANTOM_LABELS = {"liver": 1, "spleen": 2, "right kidney": 3, "left kidney": 4, "stomach": 5}

# The orientations that files come in; every third case has each.
_ORIENTATIONS = ("LPS", "RAS", "LAS")
_FIELD_OF_VIEW = (380.0, 290.0, 200.0)  # mm, to the left, to posterior, to superior
_NOISE = 14.0  # HU


def generate_phantom(
    root: str | Path, num_cases: int = 12, size: tuple[int, int, int] = (128, 96, 32), seed: int = 0
) -> Path:
    """Writes a data set in the layout of the Medical Segmentation Decathlon; the last quarter is for validation.

    The same arguments give the same bytes. The folder appears when it is complete.

    Args:
        root: the folder to make; it must not exist, or be empty.
        num_cases: cases in all, at least 2.
        size: voxels of a volume to the left, to posterior and to superior.
        seed: of everything that varies.

    Returns:
        ``root``.

    Raises:
        ValueError: for fewer than two cases.
        FileExistsError: where the folder holds something.
    """
    root = Path(root)
    if num_cases < 2:
        raise ValueError(f"num_cases is {num_cases}; training and validation need one case each.")
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root}: the folder holds files already; name a new folder for the phantom.")
    names = [f"phantom_{number:03d}" for number in range(num_cases)]
    first_validation = num_cases - max(1, num_cases // 4)
    with written_beside(root) as beside:
        (beside / "imagesTr").mkdir(parents=True)
        (beside / "labelsTr").mkdir()
        for number, name in enumerate(names):
            image, labels, affine = phantom_case(size, np.random.default_rng([seed, number]))
            orientation = _ORIENTATIONS[number % len(_ORIENTATIONS)]
            for folder, array in (("imagesTr", image), ("labelsTr", labels)):
                _save(array, affine, orientation, beside / folder / f"{name}.nii.gz")
        entries = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
        description = {
            "name": "Phantom",
            "description": "generated abdominal CT",
            "licence": "Apache-2.0",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {"0": "background"} | {str(value): name for name, value in PHANTOM_LABELS.items()},
            "numTraining": first_validation,
            "training": entries[:first_validation],
            "validation": entries[first_validation:],
            "test": [],
        }
        (beside / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return root


def phantom_case(size: tuple[int, int, int], random: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One case.

    Args:
        size: voxels (I, J, K) in LPS.
        random: where its anatomy and its noise are drawn from.

    Returns:
        image (I, J, K) int16 in HU, label map (I, J, K) uint8, affine (4, 4) RAS+ in millimetres.
    """
    spacing = np.array(_FIELD_OF_VIEW) / size
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    abdomen = _Abdomen(np.meshgrid(*(axis.astype(np.float32) for axis in axes), indexing="ij"), spacing, random)
    image = abdomen.image + _grain(size, random)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [-axes[0][0], -axes[1][0], axes[2][0]]
    return np.clip(np.round(image), -1024, 3071).astype(np.int16), abdomen.labels, affine


class _Abdomen:
    """Paints one structure after the other, from the skin inwards, over what is there.

    A structure is a function that is below 0 inside and grows by about 1 a millimetre; its edge is one voxel wide, the
    partial volume of a real scanner.
    """

    def __init__(self, grid: tuple[np.ndarray, ...], spacing: np.ndarray, random: Generator) -> None:
        self.random = random
        self.edge = np.float32(0.35 * spacing[0])
        self.x, self.y, self.z = self._bent(grid)
        self.image = np.full(self.x.shape, -1000, dtype=np.float32)
        self.labels = np.zeros(self.x.shape, dtype=np.uint8)
        self._paint_body()
        self._paint_bowel()
        self._paint_organs()
        self._paint_spine_and_vessels()
        self._paint_lungs()

    def _bent(self, grid: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        """The grid moved by a few long waves and scaled: patients differ in size and in every outline."""
        scale = self.random.uniform(0.92, 1.08, 3)
        x, y, z = (axis / np.float32(factor) for axis, factor in zip(grid, scale, strict=True))
        bent = []
        for axis in (x, y, z):
            moved = axis.copy()
            for wavelength, amplitude in ((190, 5.0), (95, 2.5), (55, 1.2)):
                fx, fy, fz = self.random.normal(size=3) * 2 * np.pi / wavelength / np.sqrt(3)
                phase = self.random.uniform(0, 2 * np.pi)
                wave = np.sin(np.float32(fx) * x + np.float32(fy) * y + np.float32(fz) * z + np.float32(phase))
                moved += np.float32(amplitude) * wave
            bent.append(moved)
        return bent

    def _ellipsoid(self, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        """Position varies by 4 mm, radii by 8 per cent."""
        cx, cy, cz = (np.asarray(centre) + self.random.normal(0, 4, 3)).astype(np.float32)
        rx, ry, rz = (np.asarray(radii) * self.random.uniform(0.92, 1.08, 3)).astype(np.float32)
        radius = np.sqrt(((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 + ((self.z - cz) / rz) ** 2)
        return (radius - 1) * min(rx, ry, rz)

    def _tube(self, x: float, y: float, radius: float) -> np.ndarray:
        return np.hypot(self.x - np.float32(x), self.y - np.float32(y)) - np.float32(radius)

    def _paint(self, inside: np.ndarray, hu: float, label: str | None = None) -> None:
        near = inside < 4 * self.edge
        share = 1 / (1 + np.exp(np.clip(inside[near] / self.edge, -12, 12)))
        self.image[near] += share * (np.float32(hu) - self.image[near])
        self.labels[inside < 0] = 0 if label is None else PHANTOM_LABELS[label]

    def _hu(self, middle: float, spread: float = 8) -> float:
        return self.random.normal(middle, spread)

    def _paint_body(self) -> None:
        self.skin = np.hypot(self.x / 160, self.y / 115) * 130 - 130
        fat = np.float32(self.random.uniform(10, 20))
        self._paint(self.skin, -100)
        self._paint(self.skin + fat, self._hu(58, 4))
        self.cavity = self.skin + fat + 15
        self._paint(self.cavity, -95)
        # Muscles beside the spine, and the ribs in the wall
        for side in (-1, 1):
            self._paint(self._ellipsoid((side * 38, 82, 0), (30, 21, 140)), self._hu(58, 4))
            self._paint(self._ellipsoid((side * 30, 50, -70), (19, 20, 70)), self._hu(60, 4))
        angle = np.arctan2(self.y / 115, self.x / 160)
        across = np.abs(((self.z - 30 * np.abs(np.sin(angle)) * np.sign(-self.y)) / 27 + 0.3) % 1 - 0.5) * 27
        rib = np.hypot(across, 1.6 * (self.cavity - 7.5)) - 6.5
        self._paint(np.where(self.z > -50, rib, 50), 420)

    def _paint_bowel(self) -> None:
        for _ in range(24):
            centre = (self.random.uniform(-85, 85), self.random.uniform(-70, 20), self.random.uniform(-110, 60))
            radius = self.random.uniform(13, 22)
            loop = np.maximum(self._ellipsoid(centre, (radius * 1.4, radius, radius * 1.2)), self.cavity + 4)
            self._paint(loop, self._hu(45, 12))
            content = -700 if self.random.random() < 0.25 else self._hu(15, 15)
            self._paint(loop + 4, content)

    def _paint_organs(self) -> None:
        inside = self.cavity + 2
        stomach = _joined(
            self._ellipsoid((62, -28, 52), (40, 34, 38)), self._ellipsoid((22, -52, 15), (42, 22, 24)), 14
        )
        stomach = np.maximum(stomach, inside)
        self._paint(stomach, self._hu(55), "stomach")
        air = np.maximum(stomach + 5, self.y + np.float32(self.random.uniform(38, 52)))
        self._paint(stomach + 5, self._hu(20), "stomach")
        self._paint_inside(air, -850)

        liver = _joined(self._ellipsoid((-68, -5, 38), (80, 82, 72)), self._ellipsoid((8, -50, 48), (62, 30, 36)), 18)
        liver = _cut(liver, self._ellipsoid((-40, -62, -20), (17, 36, 36)), 8)  # bed of the gall bladder
        liver = _cut(liver, self._ellipsoid((-62, 68, -32), (46, 40, 62)), 8)  # impression of the right kidney
        liver = _cut(liver, self._ellipsoid((25, 20, 30), (52, 42, 100)), 8)
        liver = np.maximum(liver, inside)
        tissue = self._hu(112, 10)
        self._paint(liver, tissue, "liver")
        for _ in range(5):  # vessels, and now and then a cyst
            start = (self.random.uniform(-95, -30), self.random.uniform(-30, 25), self.random.uniform(10, 65))
            vessel = self._ellipsoid(start, (self.random.uniform(12, 34), 5, self.random.uniform(5, 14)))
            self._paint_inside(np.maximum(vessel, liver + 4), tissue + 38)
        if self.random.random() < 0.4:
            cyst = self._ellipsoid((-85, self.random.uniform(-30, 10), 40), (10, 10, 10))
            self._paint_inside(np.maximum(cyst, liver + 3), 8)
        gall = self._ellipsoid((-44, -60, -12), (13, 19, 20))
        self._paint(np.maximum(gall, inside), 10)

        spleen = self._ellipsoid((100, 36, 42), (38, 52, 54))
        spleen = _cut(spleen, self._ellipsoid((60, 16, 42), (36, 42, 60)), 6)
        self._paint(np.maximum(spleen, inside), self._hu(122), "spleen")

        for name, side, low in (("right kidney", -1, -38), ("left kidney", 1, -26)):
            kidney = self._ellipsoid((side * 64, 52, low), (27, 25, 50))
            kidney = _cut(kidney, self._ellipsoid((side * 40, 44, low), (15, 13, 20)), 5)
            kidney = np.maximum(kidney, inside)
            cortex = self._hu(180, 12)
            self._paint(kidney, cortex, name)
            self._paint_inside(kidney + 8, cortex - 45)

    def _paint_spine_and_vessels(self) -> None:
        self._paint(self._tube(10, 42, self.random.uniform(10, 12)), self._hu(190, 20))
        self._paint(self._tube(-20, 38, self.random.uniform(11, 14)), self._hu(150, 15))
        body = np.hypot(self.x / 25, (self.y - 72) / 20) * 22 - 22
        disc = np.abs((self.z / 34) % 1 - 0.5) * 34 - 4
        self._paint(body, 380)
        self._paint(body + 4, self._hu(190, 20))
        self._paint(np.maximum(body, disc), 85)
        process = _joined(
            np.maximum(np.hypot(self.x / 5, (self.y - 106) / 20) * 8 - 8, -disc - 12),
            np.maximum(np.hypot(self.x / 36, (self.y - 92) / 6) * 9 - 9, 4 - disc),
            3,
        )
        self._paint(process, 330)
        self._paint(np.hypot(self.x, self.y - 97) - 9, 30)

    def _paint_lungs(self) -> None:
        for side in (-1, 1):
            dome = self._ellipsoid((side * 78, 42, 150), (62, 62, 82))
            lung = np.maximum(dome, self.cavity + 1)
            self._paint(lung, -830)
            # Where the dome is flat, much of its edge looks like air although little of it is.
            self.labels[lung < 2 * self.edge] = 0

    def _paint_inside(self, inside: np.ndarray, hu: float) -> None:
        """Paints something that belongs to the organ around it."""
        kept = self.labels
        self.labels = kept.copy()
        self._paint(inside, hu)
        self.labels = kept


def _joined(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """The union of two shapes with a rounded seam."""
    near = np.maximum(width - np.abs(a - b), 0) / np.float32(width)
    return np.minimum(a, b) - near * near * np.float32(width / 4)


def _cut(shape: np.ndarray, knife: np.ndarray, width: float) -> np.ndarray:
    """A shape without another, with a rounded edge."""
    return -_joined(-shape, knife, width)


def _grain(size: tuple[int, int, int], random: Generator) -> np.ndarray:
    """Noise with the short correlation in the slice that a reconstruction kernel leaves."""
    noise = random.standard_normal(size, dtype=np.float32)
    for axis in (0, 1):
        noise = noise + 0.6 * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    return noise * np.float32(_NOISE / noise.std())


def _save(array: np.ndarray, affine: np.ndarray, orientation: str, path: Path) -> None:
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(orientation))
    turned = nib.Nifti1Image(apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape))
    turned.header.set_xyzt_units("mm")
    nib.save(turned, path)
