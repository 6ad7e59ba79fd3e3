"""``cobot segment``: from images and boxes to masks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from monai_cobot.cli.batch import run_batch
from monai_cobot.cli.models import (
    AdapterOption,
    CheckpointOption,
    DeviceOption,
    ImageSizeOption,
    VariantOption,
    open_model,
)
from monai_cobot.cli.prompts import BoxOn, parse_box

if TYPE_CHECKING:
    from monai_cobot.data import Prompt
    from monai_cobot.inferers import VolumeSession

__all__ = ["segment"]

_FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha", ".dcm", ".png")


def segment(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="NIfTI, NRRD, MetaImage, PNG, JPEG or a folder with a DICOM series."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File (.nii.gz, .nrrd, .mha, .png, .dcm for DICOM SEG), or a folder.")
    ] = Path("masks"),
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="SLICE:x0,y0,x1,y1 (repeat it for more slices; the mask goes on between and beyond), "
            "x0,y0,x1,y1 in a picture, or i0,j0,k0,i1,j1,k1, a 3D box in voxels of the file. Half-open."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON or CSV that lists images with their boxes, instead of IMAGE and --box.")
    ] = None,
    axis: Annotated[str | None, typer.Option(help="axial, coronal or sagittal; without, the adapter's.")] = None,
    label: Annotated[int, typer.Option(min=1, max=32767, help="Value of the mask.")] = 1,
    propagate: Annotated[bool, typer.Option(help="In volumes, go on from boxes on slices to the whole object.")] = True,
    fuse: Annotated[bool, typer.Option("--fuse", help="Use slices of all three axes.")] = False,
    preset: Annotated[
        str | None, typer.Option(help="Intensities, such as ct_abdomen, mr or window:-160,240; without, the adapter's.")
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="Of files in a folder: nii.gz, nrrd, mha, dcm, png.")
    ] = "nii.gz",
    adapter: AdapterOption = None,
    sam_variant: VariantOption = None,
    sam_checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
) -> None:
    """Segment what boxes hold, and write masks on the images' own grids.

    An image that cannot be used is passed over; what failed stands at the end, and the exit code is then 1.
    """
    if (prompts is None) == (not images) or (prompts is not None and box) or (images and not box):
        raise typer.BadParameter("give images with --box, or --prompts FILE alone.")
    slice_axis = axis or _axis_of(adapter)
    wanted = _wanted(images or [], box or [], prompts, slice_axis)
    target = _targets([image for image, _ in wanted], output, f".{output_format.lstrip('.')}")
    model = open_model(adapter, sam_variant, sam_checkpoint, image_size, device)

    from monai_cobot.inferers import EmbeddingCache, VolumeSession

    cache = EmbeddingCache()
    with Progress(console=Console(file=sys.stderr), transient=True) as bars:

        def work(case: tuple[Path, Sequence[BoxOn | Prompt]]) -> None:
            image, drawn = case
            bar = bars.add_task(image.name, total=None)
            try:
                with VolumeSession(image, model, preset, cache, look_ahead=False) as session:
                    values = _segment_objects(
                        session,
                        drawn,
                        slice_axis,
                        label,
                        propagate,
                        fuse,
                        lambda done, total: bars.update(bar, completed=done, total=total),
                    )
                    _write(session, values, target[image])
            finally:
                bars.remove_task(bar)
            print(target[image])

        run_batch(wanted, work, lambda case: case[0])


def _axis_of(adapter: Path | None) -> str:
    """Along which an adapter was trained."""
    if adapter is None:
        return "axial"
    from monai_cobot.peft import read_adapter_config

    return str(read_adapter_config(adapter).details.get("axis", "axial"))


def _wanted(
    images: list[Path], boxes: list[str], prompts: Path | None, axis: str
) -> list[tuple[Path, Sequence[BoxOn | Prompt]]]:
    """Each image with what is drawn on it."""
    if prompts is None:
        drawn = [parse_box(text) for text in boxes]
        return [(image, drawn) for image in images]
    from monai_cobot.data import read_prompts

    return [(listed.image, listed.prompts) for listed in read_prompts(prompts, axis)]


def _targets(images: list[Path], output: Path, suffix: str) -> dict[Path, Path]:
    """Where the mask of each image goes."""
    from monai_cobot.data import without_ending

    if suffix not in _FORMATS:
        raise ValueError(f"Masks are written as {', '.join(_FORMATS)}, not as {suffix}.")
    if output.name.lower().endswith(_FORMATS) and not output.is_dir():
        if len(images) > 1:
            raise ValueError(f"{output} is one file, and there are {len(images)} images: name a folder with -o.")
        return {images[0]: output}
    targets: dict[Path, Path] = {}
    for image in images:
        targets[image] = output / f"{without_ending(image.resolve().name)}{suffix}"
    for image, target in targets.items():
        if target.resolve() == image.resolve() or list(targets.values()).count(target) > 1:
            raise ValueError(
                f"{target}: the mask of {image} would replace the image or another mask; name another folder."
            )
    return targets


def _segment_objects(
    session: VolumeSession,
    drawn: Sequence[BoxOn | Prompt],
    axis: str,
    label: int,
    propagate: bool,
    fuse: bool,
    progress: Callable[[int, int], None],
) -> dict[int, int]:
    """Segment each object under a number of its own; number -> value in the mask."""
    from monai_cobot.data import Prompt
    from monai_cobot.inferers import Region, region_from_source
    from monai_cobot.inferers.grid import SLICE_NORMALS, slice_shape
    from monai_cobot.transforms import SLICE_AXES

    values: dict[int, int] = {}
    on_slices: dict[tuple[int, str], list[tuple[int, tuple[float, float, float, float]]]] = {}
    for item in drawn:
        if isinstance(item, BoxOn) and len(item.numbers) == 6:
            corners = [int(number) for number in item.numbers]
            region = Region((corners[0], corners[1], corners[2]), (corners[3], corners[4], corners[5]))
            number = len(values) + 1
            axes = SLICE_AXES if fuse else (axis,)
            session.segment_region(region_from_source(region, session.volume), number, axes, progress=progress)
            values[number] = label
            continue
        value, of_axis = (item.label, item.axis) if isinstance(item, Prompt) else (label, axis)
        rows, columns = slice_shape(session.shape, of_axis)
        numbers = item.box if isinstance(item, Prompt) else item.numbers
        x0, y0, x1, y1 = (0.0, 0.0, float(columns), float(rows)) if numbers is None else numbers
        on_slices.setdefault((value, of_axis), []).append((_slice_of(item, session, of_axis), (x0, y0, x1, y1)))
    for (value, of_axis), boxes in on_slices.items():
        if propagate and session.shape[SLICE_NORMALS[of_axis]] > 1:
            if len({index for index, _ in boxes}) < len(boxes):
                raise ValueError(
                    f"two boxes of label {value} on one slice: give their objects different labels, or segment the "
                    "slices alone with --no-propagate."
                )
            number = len(values) + 1
            session.propagate(of_axis, dict(boxes), number, fuse=fuse, progress=progress)
            values[number] = value
        else:
            for done, (index, corners_of) in enumerate(boxes):
                number = len(values) + 1
                session.segment_slice(of_axis, index, corners_of, label=number)
                values[number] = value
                progress(done + 1, len(boxes))
    return values


def _slice_of(item: BoxOn | Prompt, session: VolumeSession, axis: str) -> int:
    if item.slice is not None:
        return item.slice
    if session.volume.array.shape[3] != 1:
        raise ValueError(
            "a box of four numbers belongs to a slice of this volume: write SLICE:x0,y0,x1,y1, or six numbers for 3D."
        )
    return 0


def _write(session: VolumeSession, values: dict[int, int], path: Path) -> None:
    """The mask of all objects; where they overlap, the first one stays."""
    import numpy as np

    from monai_cobot.data import write_mask

    mask = np.zeros(session.shape, dtype=np.int16)
    for number, value in values.items():
        mask[session.lps_mask(number) & (mask == 0)] = value
    if path.name.lower().endswith(".dcm"):
        from monai_cobot.data.dicom_seg import write_dicom_seg

        names = {value: name for name, value in session.model.labels.items()}
        write_dicom_seg(mask, session.volume, path, names)
    else:
        write_mask(mask, session.volume, path)
