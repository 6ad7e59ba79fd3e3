"""The slices of many volumes as one data set that a loader can use at speed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_cobot.data.cases import Case, CaseError, LoadedCase, load_case
from monai_cobot.data.components import large_components
from monai_cobot.data.feature_cache import image_digest
from monai_cobot.data.slice_store import SlicesOnDisk, SliceStore
from monai_cobot.transforms.augmentation import image_augmentations
from monai_cobot.transforms.boxes import box_from_mask
from monai_cobot.transforms.intensity import find_preset, intensity_range, scale_intensity
from monai_cobot.transforms.slices import SLICE_AXES, slices_of

__all__ = ["Skip", "SliceDataset"]

logger = logging.getLogger(__name__)

_NO_ROWS = np.empty((0, 4), dtype=np.int32)


@dataclass(frozen=True)
class Skip:
    """Something that was left out.

    Attributes:
        case: name of the case.
        reason: why, with what to do where something can be done.
        label: the one label that was left out, or None for the whole case.
    """

    case: str
    reason: str
    label: str | None = None


@dataclass(frozen=True)
class _CachedCase:
    """The slices of a case that hold foreground.

    Attributes:
        name: name of the case.
        images: (slices, C, H, W) as read.
        label_maps: (slices, N, H, W).
        indices: (slices,) the voxel index of each slice along the axis.
        digests: (slices,) the digest of each image once it was computed, before that an empty one; none where nobody
            asks for them.
        low, high: the intensities that become 0 and 1.
    """

    name: str
    images: np.ndarray | SlicesOnDisk
    label_maps: np.ndarray | SlicesOnDisk
    indices: np.ndarray
    digests: np.ndarray
    low: float
    high: float


class SliceDataset(Dataset):
    """Every slice of some cases that shows enough of a label.

    Each volume is decoded once, when the data set is made; of it are kept, as stored in the file, the slices that are
    used, in memory up to a bound and beyond it on disk. A sample is a slice, one label in it and the box around that
    label:

    * ``image``: (C, H, W) float32 in [0, 1], C is 1, or 3 for colour pictures;
    * ``label``: (1, H, W) float32, 0 or 1;
    * ``box``: (4,) float32, xyxy, half-open, in pixels of the slice;
    * ``case``, ``label_name``: str; ``slice``: int, the voxel index along the axis, in LPS.

    With ``classes``, every slice is one sample with all labels in it, and has no box:

    * ``label``: (1, H, W) float32, 0 in the background and k in the k-th of the labels; where structures overlap, the
      first of them;
    * ``image``, ``case`` and ``slice`` as above.

    Samples are ordered by case, slice, label and component, so that neighbours share their image.

    The random numbers of a sample depend on the seed, the epoch and the sample's index alone: a run is the same with
    any number of loader workers and processes. `set_epoch` reaches workers that are already running.

    Args:
        cases: the cases; one that cannot be used is skipped and reported, the others are kept.
        labels: name -> value of the labels to use.
        preset: intensity preset, see `monai_cobot.transforms.find_preset`.
        axis: "axial", "coronal" or "sagittal".
        min_foreground: slices with fewer pixels of a label are left out. The default is SAM-COBOT's (CVPR 2024), for
            slices of about 512 x 512; lower it for small structures or coarse grids.
        components: whether each connected component of a label in a slice (8 neighbours) is a sample of its own, with
            its own mask and box, instead of the label as a whole. ``min_foreground`` then counts the component.
        transform: is called with the sample, and its result is returned; reseeded for each sample where it is a
            MONAI `Randomizable`.
        seed: of the random numbers.
        digest: whether a sample has an entry ``digest``, the `image_digest` of its image after the transform, which is
            computed once a slice.
        memory_gb: slices are kept in memory up to so many units of 10^9 bytes, about three bytes a voxel.
        cache_dir: a folder on a fast disk that holds the slices beyond that; nothing stays there. None for the system's
            folder for temporary files.
        part: what the cases are for, such as "training", for the progress bar and messages.
        classes: whether a sample is a slice with all labels. Slices without a label are samples too, or what is found
            in them would never be seen; ``min_foreground`` and ``components`` have no part in it.
        may_be_empty: whether no sample may be left, as in one of several processes that share the cases.
        progress: whether a progress bar is shown in a terminal while the cases are read.

    Attributes:
        skipped: what was left out, and why.

    Raises:
        ValueError: where no sample is left; the message counts the reasons. Also for a ``digest`` where the transform
            changes images at random.
        OSError: where the disk is full.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        labels: Mapping[str, int],
        preset: str,
        axis: str = "axial",
        min_foreground: int = 100,
        components: bool = False,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        seed: int = 0,
        digest: bool = False,
        memory_gb: float = 4.0,
        cache_dir: str | Path | None = None,
        part: str = "all",
        classes: bool = False,
        may_be_empty: bool = False,
        progress: bool = True,
    ) -> None:
        if not labels:
            raise ValueError("there are no labels to use; name at least one.")
        if axis not in SLICE_AXES:
            raise ValueError(f"unknown slice axis {axis!r}; choose one of {', '.join(SLICE_AXES)}.")
        if min_foreground < 1:
            raise ValueError(f"min_foreground is {min_foreground}; a slice needs at least 1 pixel of a label.")
        if digest and (changing := image_augmentations(transform)):
            raise ValueError(f"an image that {', '.join(changing)} changes at random has no digest that stays.")
        self.label_names = list(labels)
        self.classes = classes
        self.preset = find_preset(preset)
        self.axis = axis
        self.min_foreground = min_foreground
        self.components = components
        self.transform = transform
        self.seed = seed
        self.digest = digest
        self.skipped: list[Skip] = []
        self._label_values = [labels[name] for name in self.label_names]
        self._cases: list[_CachedCase] = []
        self._store = SliceStore(memory_gb, cache_dir)
        # In shared memory, so that workers which outlive an epoch see the next one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

        rows = []
        present: set[int] = set()
        for case in tqdm(cases, desc=f"reading {part} cases", unit="case", disable=None if progress else True):
            loaded = self._load(case)
            if loaded is not None:
                areas = loaded.areas(axis)
                present.update(areas)
                rows.append(self._add(loaded, areas))
        # (samples, 4): case, slice in the cache, label, component (0 for the label as a whole)
        self._rows = np.concatenate(rows) if rows else _NO_ROWS
        self._report(len(cases), part, labels, present, may_be_empty)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        case_index, position, label_index, component = (int(number) for number in self._rows[index])
        case = self._cases[case_index]
        sample: Any = {
            "image": scale_intensity(case.images[position], case.low, case.high),
            **self._truth(case.label_maps[position], label_index, component),
            "case": case.name,
            "slice": int(case.indices[position]),
        }
        if isinstance(self.transform, Randomizable):
            index = index % len(self)  # -1 is the last sample, and has its random numbers
            mixed = np.random.SeedSequence([self.seed, int(self._epoch), index]).generate_state(1)
            self.transform.set_random_state(seed=int(mixed[0]))
        if self.transform is not None:
            sample = self.transform(sample)
        if self.digest:
            if not case.digests[position]:
                case.digests[position] = image_digest(sample["image"])
            sample["digest"] = case.digests[position].decode()
        return sample

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of an epoch, also in loader workers that are already running."""
        self._epoch.fill_(epoch)

    def case_of(self, index: int) -> str:
        """Name of a sample's case, without loading it."""
        return self._cases[self._rows[index, 0]].name

    def labels_of(self, index: int) -> list[str]:
        """Names of a sample's labels, without loading its image: one, or with classes all that the slice shows."""
        case_index, position, label_index, _ = self._rows[index]
        if not self.classes:
            return [self.label_names[label_index]]
        label_maps = self._cases[case_index].label_maps[position]
        shown = zip(self.label_names, self._label_values, strict=True)
        return [name for name, value in shown if _label_in_slice(label_maps, value).any()]

    def one_label(self, index: int, label: str) -> dict[str, Any]:
        """A sample with the mask of one of its labels, to be shown.

        With classes, ``label`` is 0 or 1 there, ``label_name`` the label's name and ``class`` its number from 1 on.
        """
        sample: dict[str, Any] = self[index]
        if not self.classes:
            return sample
        number = self.label_names.index(label) + 1
        return {**sample, "label": (sample["label"] == number).float(), "label_name": label, "class": number}

    @property
    def cases(self) -> list[str]:
        """Names of the cases that have at least one sample."""
        return [case.name for case in self._cases]

    def _truth(self, label_maps: np.ndarray, label_index: int, component: int) -> dict[str, Any]:
        """What is true in a slice (N, H, W): the mask of a label with its box, or with classes the numbers of all."""
        if self.classes:
            numbers = np.zeros(label_maps.shape[1:], dtype=np.float32)
            for number, value in reversed(list(enumerate(self._label_values, start=1))):
                numbers[_label_in_slice(label_maps, value)] = number
            return {"label": torch.from_numpy(numbers[None])}
        mask = _label_in_slice(label_maps, self._label_values[label_index])
        if component:
            numbers, _ = large_components(mask, self.min_foreground)
            mask = numbers == component
        return {
            "label": torch.from_numpy(mask[None].astype(np.float32)),
            "box": box_from_mask(mask),
            "label_name": self.label_names[label_index],
        }

    def _load(self, case: Case) -> LoadedCase | None:
        try:
            return load_case(case, self._label_values)
        except CaseError as error:
            self._skip(case, str(error))
            return None

    def _add(self, loaded: LoadedCase, areas: Mapping[int, np.ndarray]) -> np.ndarray:
        """Keeps what is used of a case, whose labels have such areas in its slices, and returns its rows."""
        label_maps = slices_of(loaded.label_maps, self.axis)  # (slices, N, H, W)
        found = []
        for label_index, value in enumerate(self._label_values):
            if value not in areas:
                self._skip(loaded.case, "the label is absent", self.label_names[label_index])
                continue
            if self.classes:
                continue
            numbers = [
                (n, component)
                for n in np.flatnonzero(areas[value] >= self.min_foreground).tolist()
                for component in (self._components(label_maps[n], value) if self.components else (0,))
            ]
            if not numbers:
                part = "component" if self.components else "slice"
                self._skip(
                    loaded.case,
                    f"every {part} has fewer than {self.min_foreground} pixels (lower min_foreground to use them)",
                    self.label_names[label_index],
                )
            found += [(n, label_index, c) for n, c in numbers]
        if self.classes:
            found = [(n, 0, 0) for n in range(len(label_maps))]
        if not found:
            return _NO_ROWS
        try:
            low, high = intensity_range(loaded.image.array, self.preset)
        except ValueError as error:
            self._skip(loaded.case, f"case {loaded.case.name}: {loaded.case.image}: {error}")
            return _NO_ROWS
        slice_indices, positions = np.unique([n for n, _, _ in found], return_inverse=True)
        images = slices_of(loaded.image.array, self.axis)
        self._cases.append(
            _CachedCase(
                name=loaded.case.name,
                images=self._store.keep(images[slice_indices]),
                label_maps=self._store.keep(label_maps[slice_indices]),
                indices=slice_indices.astype(np.int32),
                digests=np.zeros(len(slice_indices) if self.digest else 0, dtype="S32"),
                low=low,
                high=high,
            )
        )
        rows = np.empty((len(found), 4), dtype=np.int32)
        rows[:, 0] = len(self._cases) - 1
        rows[:, 1] = positions
        rows[:, 2:] = [(label, component) for _, label, component in found]
        return rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1]))]

    def _components(self, label_maps: np.ndarray, value: int) -> list[int]:
        _, large = large_components(_label_in_slice(label_maps, value), self.min_foreground)
        return large

    def _skip(self, case: Case, reason: str, label: str | None = None) -> None:
        self.skipped.append(Skip(case.name, reason, label))

    def _report(self, count: int, part: str, labels: Mapping[str, int], present: set[int], may_be_empty: bool) -> None:
        """Says what was skipped, and refuses a data set without samples."""
        lines = [skip.reason for skip in self.skipped if skip.label is None]
        for name in self.label_names:
            reasons = Counter(skip.reason for skip in self.skipped if skip.label == name)
            lines += [f"label {name}: {reason} in {number} of {count} cases" for reason, number in reasons.items()]
        details = "".join(f"\n  - {line}" for line in lines)
        if len(self) == 0 and not may_be_empty:
            wanted = ", ".join(f"{name} = {value}" for name, value in labels.items())
            there = ", ".join(str(value) for value in sorted(present)) or "none"
            raise ValueError(
                f"{part} cases: no slice is left for the labels {wanted}; label values in the masks: {there}. Choose "
                f"another label or other cases.{details}"
            )
        if lines:
            used = len(self._cases)
            logger.warning(
                "%s cases: %d of %d are used (%d samples); left out:%s", part, used, count, len(self), details
            )


def _label_in_slice(label_maps: np.ndarray, value: int) -> np.ndarray:
    """(N, H, W) -> (H, W) bool."""
    return (label_maps == value).any(axis=0)
