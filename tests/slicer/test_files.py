"""A real CT through Slicer's own file formats."""

import numpy as np
import pytest
from COBOTLib.engines.images import mask_from_file, to_file
from COBOTLib.geometry import grid_of, roi_voxels
from COBOTLib.grid import VoxelBox, VoxelMask
from COBOTLib.segmentation import Overwrite, SegmentWriter


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


@pytest.fixture
def marrow(bone):
    """A second segment, which overlaps the bone: its id and its mask."""
    writer, _, found = bone
    k, j, i = (length // 2 for length in found.array.shape)
    box = VoxelBox(found.box.low, tuple(low + half for low, half in zip(found.box.low, (i, j, k), strict=True)))
    mask = VoxelMask(box, np.ones(box.shape, bool))
    assert found.clipped(box).array.any()
    segment = writer.add_segment("marrow")
    writer.write(segment, mask, Overwrite.NONE)
    return segment, mask


def masks_of(node, volume):
    """Name -> mask of each segment."""
    writer, segmentation = SegmentWriter(node, volume), node.GetSegmentation()
    return {segmentation.GetSegment(name).GetName(): writer.read(name) for name in segmentation.GetSegmentIDs()}


def saved_and_loaded(mrml, node, path):
    """A segmentation, by way of a file."""
    storage = mrml.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    loaded = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(loaded)
    return loaded


def test_overlapping_segments_are_the_same_after_they_were_saved_and_loaded_again(mrml, ct, bone, marrow, tmp_path):
    writer, _, found = bone
    loaded = saved_and_loaded(mrml, writer.node, tmp_path / "bones.seg.nrrd")
    masks = masks_of(loaded, ct)
    assert is_equal(masks["bone"], found)
    assert is_equal(masks["marrow"], marrow[1])


def test_a_labelmap_that_slicer_exports_as_nifti_holds_the_same_voxels(mrml, ct, bone, tmp_path):
    """By Slicer's own export and writer, read by Slicer and by nibabel."""
    import nibabel as nib

    writer, _, found = bone
    logic = mrml.modules.segmentations.logic()
    labels = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    assert logic.ExportVisibleSegmentsToLabelmapNode(writer.node, labels, ct)
    path = tmp_path / "labels.nii.gz"
    storage = mrml.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(labels)
    whole = np.zeros(grid_of(ct).dimensions[::-1], bool)
    whole[found.box.slices] = found.array
    image = nib.load(path)
    assert (whole == np.asarray(image.dataobj).T).all()
    np.testing.assert_allclose(image.affine, grid_of(ct).ijk_to_ras, atol=1e-4)
    again = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Again")
    reader = mrml.vtkMRMLVolumeArchetypeStorageNode()
    reader.SetFileName(str(path))
    assert reader.ReadData(again)
    assert logic.ImportLabelmapToSegmentationNode(again, mrml.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"))
    imported = mrml.mrmlScene.GetNodesByClass("vtkMRMLSegmentationNode").GetItemAsObject(1)
    (mask,) = masks_of(imported, ct).values()
    assert is_equal(mask, found)


def test_a_segment_is_the_same_after_it_was_saved_and_loaded_again(mrml, ct, bone, tmp_path):
    writer, _, found = bone
    loaded = saved_and_loaded(mrml, writer.node, tmp_path / "bones.seg.nrrd")
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


def test_a_scene_that_was_saved_as_a_bundle_can_be_segmented_further(mrml, bone, marrow, tmp_path):
    _, segment, found = bone
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
    assert is_equal(again.read(marrow[0]), marrow[1])
    assert is_equal(again.read(segment), found)
    edit = again.write(segment, VoxelMask(found.box, ~found.array))
    again.undo(edit)
    assert is_equal(again.read(segment), found)
    assert is_equal(again.read(marrow[0]), marrow[1])
