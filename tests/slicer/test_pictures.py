"""Slicer's own displayable managers show box, points and mask where they are meant, as in the tutorial's picture."""

import os
import subprocess
import sys

import numpy as np
import pytest

CODE = """
import sys
sys.path[:0] = [{tools!r}, {module!r}]
import numpy as np
from show_slices import *
from COBOTLib.grid import VoxelBox, VoxelMask
from COBOTLib.segmentation import SegmentWriter
with opened() as slicer:
    ct = load_ct(slicer, Path({data!r}))
    middle = grid_of(ct).to_ras(np.array([CENTER]))[0]
    view = View(slicer, ct, "View", "Axial")
    view.turn({degrees})
    view.look_at(middle, MILLIMETRES)
    pictures = [view.picture()]
    box = draw(slicer, "vtkMRMLMarkupsROINode", BOX)
    draw_in(view, box, middle)
    pictures.append(view.picture())
    draw(slicer, "vtkMRMLMarkupsFiducialNode", INSIDE).AddControlPointWorld(*middle)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    writer = SegmentWriter(segmentation, ct)
    segment = writer.add_segment("kidney")
    segmentation.GetSegmentation().GetSegment(segment).SetColor(SEGMENT)
    found = drawing.box_in_3d(box, view.node, ct).prompt.box
    writer.write(segment, VoxelMask(found, np.ones(found.shape, bool)))
    pictures.append(view.picture())
    np.save({to!r}, pictures)
"""


@pytest.mark.parametrize("degrees", [0, 35])
def test_box_point_and_mask_are_seen_in_slice_views_also_oblique_ones(
    slicer, shared_data, repository, tmp_path, degrees
):
    code = CODE.format(
        tools=str(repository / "tools"),
        module=str(repository / "SlicerCOBOT"),
        data=str(shared_data / "Torso_CT_MR"),
        to=str(tmp_path / "pictures.npy"),
        degrees=degrees,
    )
    # a process of its own: where nothing can be rendered off screen, VTK ends it
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    pictures = np.load(tmp_path / "pictures.npy").astype(int)
    red, green, blue = np.moveaxis(pictures, -1, 0)
    assert (red == green).all(axis=(1, 2)).tolist() == [True, False, False]  # the CT alone is grey
    yellow = (red > 200) & (green > 150) & (blue < 80)
    assert yellow[1].sum() > 100
    rows, columns = np.nonzero(yellow[1])
    # 62 of 180 millimetres in the middle of 480 pixels
    assert np.allclose([rows.min(), columns.min(), rows.max(), columns.max()], [157, 157, 322, 322], atol=8)
    bluish = (blue > red + 40) & (blue > green)
    assert not bluish[1].any()
    assert bluish[2].sum() > 1000
    assert bluish[2][157 + 20 : 322 - 20, 157 + 20 : 322 - 20].mean() > 0.8
    assert bluish[2][:140].sum() == 0
    assert ((green > red + 80) & (green > blue + 10))[2].any()
