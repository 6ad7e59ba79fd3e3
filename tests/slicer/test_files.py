"""A real CT through Slicer's own file formats."""

import numpy as np
import pytest
from COBOTLib.engines.images import mask_from_file, to_file
from COBOTLib.geometry import grid_of, roi_voxels
from COBOTLib.grid import VoxelMask
from COBOTLib.segmentation import SegmentWriter


@pytest.fixture
def ct(mrml, shared_data):
    node = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    storage = mrml.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(shared_data / "Torso_CT_MR" / "example_ct.nii.gz"))
    assert storage.ReadData(node)
    return node


@pytest.fixture
def bone(mrml, ct, add_roi):
    """Bone in a box in the middle of the CT, as a segment: its writer, its id and its mask."""
    grid = grid_of(ct)
    middle = grid.to_ras((np.array(grid.dimensions) - 1)[None] / 2)[0]
    box = roi_voxels(add_roi(middle, np.array(grid.dimensions) * grid.spacing / 2), grid)
    found = VoxelMask(box, mrml.util.arrayFromVolume(ct)[box.slices] > 200).cropped()
    assert found.array.sum() > 1000
    writer = SegmentWriter(mrml.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Bones"), ct)
    segment = writer.add_segment("bone")
    writer.write(segment, found)
    return writer, segment, found


def is_equal(a, b):
    return a.box == b.box and (a.array == b.array).all()


def test_a_segment_is_the_same_after_it_was_saved_and_loaded_again(mrml, ct, bone, tmp_path):
    writer, _, found = bone
    storage = mrml.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "bones.seg.nrrd"))
    assert storage.WriteData(writer.node)
    loaded = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(loaded)
    again = SegmentWriter(loaded, ct)
    (segment,) = loaded.GetSegmentation().GetSegmentIDs()
    assert is_equal(again.read(segment), found)


def test_a_mask_is_the_same_in_the_formats_that_are_sent(ct, bone):
    _, _, found = bone
    grid = grid_of(ct)
    whole = np.zeros(grid.dimensions[::-1], np.uint8)
    whole[found.box.slices] = found.array
    for suffix in (".nii.gz", ".nrrd"):
        assert is_equal(mask_from_file(to_file(whole, grid, suffix), suffix, grid), found)


def test_a_scene_that_was_saved_as_a_bundle_can_be_segmented_further(mrml, bone, tmp_path):
    _, _, found = bone
    assert mrml.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    mrml.mrmlScene.Clear(False)
    cache, manager = mrml.vtkCacheManager(), mrml.vtkDataIOManager()  # where the bundle is unpacked
    (tmp_path / "unpacked").mkdir()
    cache.SetRemoteCacheDirectory(str(tmp_path / "unpacked"))
    manager.SetCacheManager(cache)
    mrml.mrmlScene.SetCacheManager(cache)
    mrml.mrmlScene.SetDataIOManager(manager)
    assert mrml.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    node = mrml.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    again = SegmentWriter(node, mrml.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode"))
    (segment,) = node.GetSegmentation().GetSegmentIDs()
    assert is_equal(again.read(segment), found)
    edit = again.write(segment, VoxelMask(found.box, ~found.array))
    again.undo(edit)
    assert is_equal(again.read(segment), found)
