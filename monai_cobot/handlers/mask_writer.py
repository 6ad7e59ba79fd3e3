"""Predicted slices put together to label maps, each on the grid of its image's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ignite.engine import Events
from monai.engines import Workflow

from monai_cobot.data import PromptedImage, PromptLoader, Skip, write_mask
from monai_cobot.data.volumes import PICTURE_SUFFIXES
from monai_cobot.processes import of_all_processes, place_of_process
from monai_cobot.transforms import place_slice, take_slice

# The formats that masks are written in, by those of the images; DICOM and whatever else become NIfTI.
_FORMATS = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}
_FORMATS |= dict.fromkeys(PICTURE_SUFFIXES, ".png")


class MaskWriter:
    """Writes one label map an image, as soon as its last slice is predicted, and a summary at the end.

    Of several processes that share the images the first one gives the summary, for all of them.

    The file has the image's own grid and format (NIfTI for DICOM, PNG for pictures) and is written whole or not at all.
    An image that cannot be used or written is skipped and reported; the others go on.

    Where masks overlap, a voxel belongs to the label whose prompt comes first; the summary says how many voxels a later
    label wanted too. Voxels in no mask are 0.

    For MONAI's evaluators with ``decollate=False``, whose output ``pred`` (B, N, H, W) is 0 or 1.

    Args:
        loader: gives the batches.
        folder: where the masks go, under the names of their images.

    Attributes:
        written: the files that were written; at the end those of all processes.
        skipped: the images that have none, and why; likewise.

    Raises:
        ValueError: where a mask would take the place of a file that is read, or of another mask; at the end, where no
            image of all could be used.
    """

    def __init__(self, loader: PromptLoader, folder: str | Path) -> None:
        self.loader = loader
        self.folder = Path(folder)
        self.written: list[Path] = []
        self.skipped: list[Skip] = []
        self._overlaps: dict[str, int] = {}
        self._label_map: np.ndarray | None = None
        self._check_targets()

    def attach(self, engine: Workflow) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._summarise)

    def path_of(self, name: str, image: Path) -> Path:
        """Where the mask of an image goes."""
        ending = next((_FORMATS[end] for end in _FORMATS if image.name.lower().endswith(end)), ".nii.gz")
        return self.folder / f"{name}{ending}"

    def _check_targets(self) -> None:
        images = self.loader.dataset.images
        taken = {file.resolve(): f"which is read for {image.name}" for image in images for file in image.files}
        for image in images:
            target = self.path_of(image.name, image.image)
            if target.resolve() in taken:
                raise ValueError(
                    f"{target}: the mask of {image.image} would replace this file, {taken[target.resolve()]}. "
                    "Choose another output_dir."
                )
            taken[target.resolve()] = f"the mask of {image.image}"

    def _collect(self, engine: Workflow) -> None:
        batch = engine.state.batch
        image: PromptedImage = batch["source"]
        masks = (engine.state.output["pred"] > 0).cpu().numpy()  # (B, N, H, W)
        if self._label_map is None:
            largest = max(prompt.label for prompt in image.prompts)
            self._label_map = np.zeros(image.volume.array.shape[1:], dtype=np.uint8 if largest <= 255 else np.int16)
        for prompts, of_slice in zip(batch["prompts"], masks, strict=True):
            plane = take_slice(self._label_map[None], prompts[0].axis, prompts[0].slice).copy()  # (1, H, W)
            for prompt, mask in zip(prompts, of_slice[:, None], strict=False):  # repeated boxes have no prompt
                wanted = int(np.count_nonzero(mask & (plane != 0) & (plane != prompt.label)))
                self._overlaps[image.name] = self._overlaps.get(image.name, 0) + wanted
                plane[mask & (plane == 0)] = prompt.label
            place_slice(self._label_map[None], plane, prompts[0].axis, prompts[0].slice)
        if batch["last"]:
            self._write(image, self._label_map)
            self._label_map = None

    def _write(self, image: PromptedImage, label_map: np.ndarray) -> None:
        path = self.path_of(image.name, image.volume.path)
        try:
            write_mask(label_map, image.volume, path)
        except ValueError as error:  # what this format cannot hold; a full disk concerns all, and is not passed over
            self.skipped.append(Skip(image.name, str(error)))
        else:
            self.written.append(path)

    def _summarise(self, engine: Workflow) -> None:
        parts = of_all_processes((self.written, [*self.skipped, *self.loader.skipped], self._overlaps))
        order = {image.name: number for number, image in enumerate(self.loader.dataset.images)}
        self.written = sorted(path for written, _, _ in parts for path in written)
        self.skipped = sorted((skip for _, skipped, _ in parts for skip in skipped), key=lambda skip: order[skip.case])
        overlaps = {name: count for _, _, counts in parts for name, count in counts.items() if count}
        if place_of_process()[0] != 0:
            return
        lines = [f"masks written to {self.folder}: {len(self.written)}"]
        lines += [
            f"  {name}: {overlaps[name]} voxels are in masks of several labels and have the one that came first"
            for name in sorted(overlaps, key=order.__getitem__)
        ]
        lines += [f"skipped {skip.case}: {skip.reason}" for skip in self.skipped]
        print("\n".join(lines))
        if self.skipped and not self.written:
            raise ValueError(f"no mask was written: {self.skipped[0].reason}")
