"""``cobot segment``: from images and boxes to masks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from monai_cobot.cli.batch import progress_bars, run_batch
from monai_cobot.cli.models import (
    AdapterOption,
    BackendOption,
    CheckpointOption,
    DeviceOption,
    ImageSizeOption,
    PrecisionOption,
    VariantOption,
    open_model,
)
from monai_cobot.cli.options import check_axis, check_backend, check_device, check_preset, wrong_option
from monai_cobot.cli.prompts import BoxOn, PointOn, parse_box, parse_point

if TYPE_CHECKING:
    from monai_cobot.data import Prompt
    from monai_cobot.inferers import EndRules, SlicePrompts, VolumeSession

__all__ = ["segment"]

_FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha", ".dcm", ".png")
_OTHER_FORMATS = (".gz", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".mhd", ".hdr", ".img")


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
            "x0,y0,x1,y1 in a picture, or i0,j0,k0,i1,j1,k1, a 3D box in voxels of the file, as 3D Slicer's Data Probe "
            "shows them. Half-open. Slices count from 0, at the inferior, anterior or right end, x and y are pixels "
            "from the upper left as radiologists see the slice (right of the patient on the left, anterior or superior "
            "on top), however the file is stored."
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(help="SLICE:x,y, or x,y in a picture: a point in the object, with a box or without. Repeatable."),
    ] = None,
    point_outside: Annotated[
        list[str] | None, typer.Option(help="SLICE:x,y, or x,y in a picture: a point that is not in the object.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON or CSV that lists images with their boxes, instead of IMAGE and prompts.")
    ] = None,
    axis: Annotated[str | None, typer.Option(help="axial, coronal or sagittal; without, the adapter's.")] = None,
    label: Annotated[int, typer.Option(min=1, max=32767, help="Value of the mask.")] = 1,
    propagate: Annotated[bool, typer.Option(help="In volumes, go on from boxes on slices to the whole object.")] = True,
    max_reach: Annotated[
        float,
        typer.Option(
            min=0,
            help="How far the mask may go on beyond the first and the last box: at most this multiple of the object's "
            "size in the slice. Raise it for long objects, such as an aorta, or give boxes near both ends.",
        ),
    ] = 1.0,
    fuse: Annotated[bool, typer.Option("--fuse", help="Use slices of all three axes.")] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Intensities, such as ct_abdomen, mr or window:-160,240; without, the adapter's, or where it has none "
            "a guess: ct_abdomen where the darkest voxel is at most -500, else mr (photo for 8-bit pictures)."
        ),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="Of files in a folder: nii.gz, nrrd, mha, dcm, png.")
    ] = "nii.gz",
    adapter: AdapterOption = None,
    sam_variant: VariantOption = None,
    sam_checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "auto",
    backend: BackendOption = "auto",
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder that keeps image embeddings, for other boxes on the same images.")
    ] = None,
) -> None:
    """Segment what boxes hold or points show, and write masks on the images' own grids.

    In a folder, masks have the names of their images; images of one name in several folders keep their folders.

    An image that cannot be used is passed over; what failed stands at the end, and the exit code is then 1.
    """
    with wrong_option("--box"):
        drawn = [*map(parse_box, box or [])]
    with wrong_option("--point"):
        points = [parse_point(text, True) for text in point or []]
    with wrong_option("--point-outside"):
        points += [parse_point(text, False) for text in point_outside or []]
    if bool(images) == (prompts is not None) or bool(images) != bool(drawn or points):
        raise typer.BadParameter("give images with --box or --point, or --prompts FILE alone.")
    suffix = f".{output_format.lstrip('.')}"
    _check_endings(output, suffix)
    check_axis(axis)
    check_preset(preset)
    check_backend(backend)
    check_device(device)
    slice_axis = axis or _axis_of(adapter)
    wanted = _wanted(images or [], drawn, prompts, slice_axis)
    target = _targets([image for image, _ in wanted], output, suffix)
    model = open_model(adapter, sam_variant, sam_checkpoint, image_size, device, precision, backend)

    from monai_cobot.inferers import EmbeddingCache, EndRules, VolumeSession

    cache = EmbeddingCache(folder=cache_dir)
    with progress_bars() as bars:

        def work(case: tuple[Path, Sequence[BoxOn | Prompt]]) -> None:
            image, boxes = case
            bar = bars.add_task(escape(image.name), total=None)
            try:
                with VolumeSession(image, model, preset, cache, look_ahead=False, keep_undo=False) as session:
                    objects = _segment_objects(
                        session,
                        boxes,
                        points,
                        slice_axis,
                        label,
                        EndRules(max_reach=max_reach) if propagate else None,
                        fuse,
                        lambda done, total: bars.update(bar, completed=done, total=total),
                    )
                    _write(session, {number: value for number, (value, _) in objects.items()}, target[image])
                    for number, (value, prompted) in objects.items():
                        if not session.lps_mask(number).any():
                            print(f"{image}: nothing was found of label {value}, {prompted}.", file=sys.stderr)
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
    images: list[Path], drawn: list[BoxOn], prompts: Path | None, axis: str
) -> list[tuple[Path, Sequence[BoxOn | Prompt]]]:
    """Each image with the boxes on it."""
    if prompts is None:
        return [(image, drawn) for image in images]
    from monai_cobot.data import read_prompts

    return [(listed.image, listed.prompts) for listed in read_prompts(prompts, axis)]


def _check_endings(output: Path, suffix: str) -> None:
    """Refuses formats that masks are not written in, before anything is read."""
    formats = f"masks are written as {', '.join(_FORMATS)}"
    if suffix not in _FORMATS:
        raise typer.BadParameter(f"{formats}, not as {suffix}.", param_hint="--format")
    named = output.name.lower()
    if output.suffix.lower() in _OTHER_FORMATS and not named.endswith(_FORMATS) and not output.is_dir():
        raise typer.BadParameter(f"{output}: {formats}, not as {output.suffix}.", param_hint="--output")


def _targets(images: list[Path], output: Path, suffix: str) -> dict[Path, Path]:
    """Where the mask of each image goes."""
    from monai_cobot.data import without_ending

    if output.name.lower().endswith(_FORMATS) and not output.is_dir():
        if len(images) > 1:
            raise typer.BadParameter(
                f"{output} is one file, and there are {len(images)} images: name a folder.", param_hint="--output"
            )
        targets = {images[0]: output}
    else:
        names = {image: Path(without_ending(image.resolve().name)) for image in images}
        if len(set(names.values())) < len(names):
            common = os.path.commonpath([image.resolve().parent for image in images])
            names = {image: image.resolve().parent.relative_to(common) / name for image, name in names.items()}
        targets = {image: output / f"{name}{suffix}" for image, name in names.items()}
    for image, target in targets.items():
        if target.resolve() == image.resolve() or list(targets.values()).count(target) > 1:
            raise ValueError(
                f"{target}: the mask of {image} would replace the image or another mask. Name another folder with -o, "
                "or segment images of one name one at a time."
            )
    return targets


def _segment_objects(
    session: VolumeSession,
    boxes: Sequence[BoxOn | Prompt],
    points: Sequence[PointOn],
    axis: str,
    label: int,
    rules: EndRules | None,
    fuse: bool,
    progress: Callable[[int, int], None],
) -> dict[int, tuple[int, str]]:
    """Segment each object under a number of its own; number -> value in the mask, and where its prompts are. Without
    rules where an object ends, in the slices alone."""
    from monai_cobot.inferers import Region, region_from_source
    from monai_cobot.inferers.grid import SLICE_NORMALS
    from monai_cobot.transforms import SLICE_AXES

    objects: dict[int, tuple[int, str]] = {}
    regions = [item for item in boxes if isinstance(item, BoxOn) and len(item.numbers) == 6]
    if points and regions and len(boxes) > 1:
        raise ValueError("points beside a 3D box correct the object in it: give one box alone, or no points.")
    for item in regions:
        i0, j0, k0, i1, j1, k1 = item.numbers
        whole = Region((floor(i0), floor(j0), floor(k0)), (ceil(i1), ceil(j1), ceil(k1)))
        region = region_from_source(whole, session.volume)
        number = len(objects) + 1
        session.segment_region(region, number, SLICE_AXES if fuse else (axis,), progress=progress)
        objects[number] = label, f"in the 3D box {','.join(f'{edge:g}' for edge in item.numbers)}"
        for clicked in points:
            session.add_point(axis, _slice_of(clicked.slice, session), clicked.point(), number)
    if regions:
        points = ()
    on_slices = _prompts_on_slices(session, [item for item in boxes if item not in regions], points, axis, label)
    for (value, of_axis), prompts in on_slices.items():
        goes_on = rules is not None and session.shape[SLICE_NORMALS[of_axis]] > 1
        if goes_on and len({index for index, _ in prompts}) < len(prompts):
            raise ValueError(
                f"two boxes of label {value} on one slice: give their objects different labels, or segment the "
                "slices alone with --no-propagate."
            )
        number = len(objects) + 1
        for done, (index, drawn) in enumerate(prompts):
            number = number if goes_on else len(objects) + 1
            session.segment_slice(of_axis, index, drawn.box, drawn.points, number)
            objects[number] = value, _place(of_axis, index, drawn)
            if not goes_on:
                progress(done + 1, len(prompts))
        if goes_on:
            objects[number] = value, "; ".join(_place(of_axis, index, drawn) for index, drawn in prompts)
            session.propagate(of_axis, None, number, rules=rules, fuse=fuse, progress=progress)
    return objects


def _place(axis: str, index: int, drawn: SlicePrompts) -> str:
    """Where a prompt is, as a user wrote it."""
    prompt = "at the points" if drawn.box is None else f"in the box {','.join(f'{edge:g}' for edge in drawn.box)}"
    return f"{prompt} on {axis} slice {index}"


def _prompts_on_slices(
    session: VolumeSession, boxes: Sequence[BoxOn | Prompt], points: Sequence[PointOn], axis: str, label: int
) -> dict[tuple[int, str], list[tuple[int, SlicePrompts]]]:
    """(Label, slice axis) -> slices with what is drawn there; points join the box on their slice."""
    from monai_cobot.data import Prompt
    from monai_cobot.inferers import SlicePrompts
    from monai_cobot.inferers.grid import slice_shape

    found: dict[tuple[int, str], list[tuple[int, SlicePrompts]]] = {}
    for item in boxes:
        value, of_axis = (item.label, item.axis) if isinstance(item, Prompt) else (label, axis)
        rows, columns = slice_shape(session.shape, of_axis)
        numbers = item.box if isinstance(item, Prompt) else item.numbers
        x0, y0, x1, y1 = (0.0, 0.0, float(columns), float(rows)) if numbers is None else numbers
        drawn = SlicePrompts((x0, y0, x1, y1))
        found.setdefault((value, of_axis), []).append((_slice_of(item.slice, session), drawn))
    for clicked in points:
        index = _slice_of(clicked.slice, session)
        there = found.setdefault((label, axis), [])
        places = [place for place, (of_slice, _) in enumerate(there) if of_slice == index]
        if len(places) > 1:
            raise ValueError(
                f"two boxes on slice {index}, and a point that may belong to either: segment one at a time."
            )
        if places:
            before = there[places[0]][1]
            there[places[0]] = (index, SlicePrompts(before.box, (*before.points, clicked.point())))
        else:
            there.append((index, SlicePrompts(None, (clicked.point(),))))
    return found


def _slice_of(written: int | None, session: VolumeSession) -> int:
    if written is not None:
        return written
    if session.volume.array.shape[3] != 1:
        raise ValueError(
            "a box of four numbers, or a point of two, belongs to a slice of this volume: write SLICE: in front of "
            "them, or six numbers for a 3D box."
        )
    return 0


def _write(session: VolumeSession, values: dict[int, int], path: Path) -> None:
    """The mask of all objects; where they overlap, the first one stays."""
    import numpy as np

    from monai_cobot.data import write_mask

    mask = np.zeros(session.shape, dtype=np.int16)
    for number, value in values.items():
        found = session.objects[number].mask
        if found is not None:
            view = mask[found.region.slices]
            view[found.array & (view == 0)] = value
    if path.name.lower().endswith(".dcm"):
        from monai_cobot.data.dicom_seg import write_dicom_seg

        names = {value: name for name, value in session.model.labels.items()}
        write_dicom_seg(mask, session.volume, path, names)
    else:
        write_mask(mask, session.volume, path)
