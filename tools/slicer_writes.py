"""How long it takes to put a mask into a segment of a large volume in 3D Slicer: ``python tools/slicer_writes.py``.

With Slicer's own core (wheel ``slicer-core``) and SlicerCOBOT's writer, on a volume of 512 x 512 x 300 voxels with two
large segments. It prints milliseconds of the first write and the median of those after it, and what else the
application waits for.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from slicer_scene import opened

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "SlicerCOBOT"))  # as Slicer does for its modules

from COBOTLib.engines.in_process import InProcessEngine
from COBOTLib.grid import VoxelBox, VoxelMask
from COBOTLib.jobs import Background
from COBOTLib.segmentation import Overwrite
from COBOTLib.session import Session

DIMENSIONS = (512, 512, 300)
REPEATS = 10


def ball(center: tuple[int, int, int], radius: int) -> VoxelMask:
    """A mask in the box around it."""
    box = VoxelBox(tuple(index - radius for index in center), tuple(index + radius for index in center))
    away = np.indices(box.shape) - (radius - 0.5)
    return VoxelMask(box, (away**2).sum(0) < radius**2)


def volume_of(slicer: Any) -> Any:
    """An empty scalar volume node."""
    image = vtk.vtkImageData()
    image.SetDimensions(*DIMENSIONS)
    image.AllocateScalars(vtk.VTK_SHORT, 1)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    node.SetAndObserveImageData(image)
    return node


def milliseconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def main() -> None:
    """Run the command."""
    with opened() as slicer:
        background, volume = Background(), volume_of(slicer)
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        session = Session(volume, segmentation, InProcessEngine(), background)
        writer = session.writer
        liver, spleen, lesion = map(writer.add_segment, ("liver", "spleen", "lesion"))
        writer.write(liver, ball((150, 150, 150), 90))
        writer.write(spleen, ball((400, 400, 150), 60))
        lesions = [ball((120 + 6 * step, 150, 150), 20) for step in range(REPEATS + 1)]

        def say(what: str, into: str, overwrite: Overwrite) -> None:
            times = [milliseconds(lambda mask=mask: writer.write(into, mask, overwrite)) for mask in lesions]
            print(f"{what}: first {times[0]:.0f} ms, then {statistics.median(times[1:]):.1f} ms")

        say("a lesion in a liver that is kept (the labelmap of all is split)", lesion, Overwrite.NONE)
        say("a spleen that takes it from the liver", spleen, Overwrite.ALL)
        writer.node.CreateClosedSurfaceRepresentation()
        lesions = [ball((300 + 6 * step, 300, 150), 20) for step in range(REPEATS + 1)]
        say("a lesion while 3D views show surfaces", lesion, Overwrite.NONE)
        print(f"the volume is copied before its first prompt: {milliseconds(session.scan):.0f} ms")
        print(f"all segments are read before they are sent: {milliseconds(session.labels):.0f} ms")
        session.close()
        background.close()


if __name__ == "__main__":
    main()
