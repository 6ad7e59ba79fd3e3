import numpy as np
import pytest
from COBOTLib import segmentation
from COBOTLib.geometry import array_from_matrix, matrix_from_array
from COBOTLib.grid import VoxelBox, VoxelMask
from COBOTLib.segmentation import Overwrite, SegmentationError, SegmentWriter
from spaces import SPACES, rotation, space

vtk = pytest.importorskip("vtk", reason="needs VTK, which comes with the wheel slicer-core")

SHAPE = (12, 14, 16)  # (K, J, I)
NAMES = ("liver", "spleen", "kidney")


def ball(center, radius, shape=SHAPE):
    """A mask of a whole volume (K, J, I)."""
    grid = np.indices(shape)
    return ((grid - np.array(center)[:, None, None, None]) ** 2).sum(0) <= radius**2


def mask_of(whole: np.ndarray) -> VoxelMask:
    k, j, i = whole.shape
    return VoxelMask(VoxelBox((0, 0, 0), (i, j, k)), whole)


@pytest.fixture
def add_segmentation(mrml):
    def add(name="Organs"):
        return mrml.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)

    return add


@pytest.fixture
def volume(add_volume):
    return add_volume(np.zeros(SHAPE, np.int16), SPACES["oblique anisotropic"])


@pytest.fixture
def writer(add_segmentation, volume):
    return SegmentWriter(add_segmentation(), volume)


@pytest.fixture
def seen(mrml, volume):
    """What Slicer itself says of a segment: array (K, J, I) bool of the whole volume."""

    def see(writer, segment_id):
        return mrml.util.arrayFromSegmentBinaryLabelmap(writer.node, segment_id, volume) > 0

    return see


@pytest.mark.parametrize("name", SPACES)
def test_a_mask_is_where_slicer_sees_it_in_every_orientation(mrml, add_volume, add_segmentation, name):
    volume = add_volume(np.zeros(SHAPE, np.int16), SPACES[name])
    writer = SegmentWriter(add_segmentation(), volume)
    segment = writer.add_segment("liver")
    whole = ball((4, 7, 9), 3)
    writer.write(segment, mask_of(whole).cropped())
    assert (mrml.util.arrayFromSegmentBinaryLabelmap(writer.node, segment, volume) > 0).tolist() == whole.tolist()
    assert writer.read(segment).box == mask_of(whole).cropped().box


def test_a_write_keeps_what_the_segment_had_and_every_voxel_outside_the_crop(writer, seen):
    liver, spleen = writer.add_segment("liver"), writer.add_segment("spleen")
    writer.write(liver, mask_of(ball((3, 4, 4), 3)))
    writer.write(spleen, mask_of(ball((8, 9, 11), 3)))
    writer.write(liver, mask_of(ball((5, 5, 5), 3)))
    assert (seen(writer, liver) == (ball((3, 4, 4), 3) | ball((5, 5, 5), 3))).all()
    assert (seen(writer, spleen) == ball((8, 9, 11), 3) & ~ball((5, 5, 5), 3)).all()


def test_what_of_a_mask_is_outside_the_volume_is_left_out(writer, seen):
    segment = writer.add_segment("liver")
    box = VoxelBox((14, 12, 10), (20, 20, 20))
    edit = writer.write(segment, VoxelMask(box, np.ones(box.shape, bool)))
    assert edit.added.box == VoxelBox((14, 12, 10), (16, 14, 12))
    assert seen(writer, segment).sum() == 8
    outside = VoxelBox((30, 30, 30), (31, 31, 31))
    assert writer.write(segment, VoxelMask(outside, np.ones((1, 1, 1), bool))).added is None


@pytest.mark.parametrize("overwrite", Overwrite)
@pytest.mark.parametrize("seed", range(3))
def test_overlapping_segments_become_what_the_segment_editor_makes_of_them(
    mrml, volume, add_segmentation, overwrite, seed
):
    """The same strokes through Slicer's own Segment Editor logic and through the writer."""
    random = np.random.default_rng(seed)
    writer, expected = SegmentWriter(add_segmentation(), volume), SegmentWriter(add_segmentation(), volume)
    editor = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    logic = mrml.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(mrml.mrmlScene)
    logic.SetSegmentEditorNode(editor)
    logic.SetSegmentationNode(expected.node)
    logic.SetSourceVolumeNode(volume)
    editor.SetOverwriteMode(int(overwrite))
    for each in (writer, expected):
        for name in NAMES:
            each.node.GetSegmentation().AddEmptySegment(name, name)
        each.node.GetDisplayNode().SetSegmentVisibility("spleen", False)
    for _ in range(8):
        name = NAMES[random.integers(3)]
        mask = mask_of(ball(random.integers(2, 10, 3), random.uniform(1, 4))).cropped()
        writer.write(name, mask, overwrite)
        stroke = mrml.vtkOrientedImageData()
        stroke.SetExtent(*mask.box.extent)
        stroke.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        for index, value in enumerate(mask.array.ravel()):
            stroke.GetPointData().GetScalars().SetValue(index, int(value))
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        stroke.SetImageToWorldMatrix(matrix)
        logic.ModifySegmentByLabelmap(
            expected.node, name, stroke, logic.ModificationModeAdd, stroke.GetExtent(), False, False
        )
        for segment in NAMES:
            ours, theirs = (
                mrml.util.arrayFromSegmentBinaryLabelmap(each.node, segment, volume) for each in (writer, expected)
            )
            assert (ours == theirs).all(), segment


def test_a_labelmap_is_read_once_however_many_segments_share_it(writer, seen, monkeypatch):
    segments = [writer.add_segment(str(number)) for number in range(12)]
    for number, segment in enumerate(segments):
        writer.write(segment, mask_of(ball((number, 7, 8), 0)))
    assert writer.node.GetSegmentation().GetNumberOfLayers() == 1
    read, reads = segmentation._voxels, []
    monkeypatch.setattr(segmentation, "_voxels", lambda layer: (reads.append(layer), read(layer))[1])
    edit = writer.write(segments[0], mask_of(ball((4, 7, 8), 1)))
    assert edit.taken.keys() == set(segments[3:6])
    assert len(reads) < len(segments)
    monkeypatch.undo()
    assert not seen(writer, segments[4]).any()


def test_the_matrix_of_a_labelmap_is_compared_once_however_many_segments_share_it(writer, monkeypatch):
    segments = [writer.add_segment(str(number)) for number in range(12)]
    for number, segment in enumerate(segments):
        writer.write(segment, mask_of(ball((number, 7, 8), 0)))
    compared, matrix_of = [], segmentation._matrix_of
    monkeypatch.setattr(segmentation, "_matrix_of", lambda image: (compared.append(image), matrix_of(image))[1])
    writer.check(segments[0])
    assert len(compared) < len(segments)


@pytest.mark.parametrize("overwrite", Overwrite)
def test_edits_are_undone_and_done_again_voxel_by_voxel(writer, seen, overwrite):
    random = np.random.default_rng(1)
    segments = [writer.add_segment(name) for name in NAMES]
    states, edits = [[seen(writer, segment) for segment in segments]], []
    for _ in range(8):
        mask = mask_of(ball(random.integers(0, 12, 3), random.uniform(1, 5)))
        edits.append(writer.write(segments[random.integers(3)], mask, overwrite))
        states.append([seen(writer, segment) for segment in segments])
    for number in reversed(range(8)):
        writer.undo(edits[number])
        assert (np.array([seen(writer, segment) for segment in segments]) == states[number]).all()
    for number in range(8):
        writer.redo(edits[number])
        assert (np.array([seen(writer, segment) for segment in segments]) == states[number + 1]).all()


def test_undo_leaves_what_was_drawn_elsewhere_since(writer, seen):
    segment = writer.add_segment("liver")
    edit = writer.write(segment, mask_of(ball((3, 3, 3), 2)))
    writer.write(segment, mask_of(ball((9, 9, 9), 2)))  # by hand, say
    writer.undo(edit)
    assert (seen(writer, segment) == ball((9, 9, 9), 2)).all()


def test_segments_that_were_removed_are_reported_or_passed_over(writer, seen):
    liver, spleen = writer.add_segment("liver"), writer.add_segment("spleen")
    writer.write(spleen, mask_of(ball((5, 5, 5), 4)))
    edit = writer.write(liver, mask_of(ball((5, 5, 5), 2)))
    writer.node.GetSegmentation().RemoveSegment(spleen)
    writer.undo(edit)
    assert not seen(writer, liver).any()
    writer.node.GetSegmentation().RemoveSegment(liver)
    with pytest.raises(SegmentationError, match="Choose or add a segment"):
        writer.redo(edit)


@pytest.mark.parametrize("together", [True, False], ids=["with the volume", "in the world"])
def test_a_mask_is_at_its_place_whether_or_not_the_segmentation_is_under_the_volume_s_transform(
    volume, add_segmentation, seen, add_transform, together
):
    transform = add_transform(volume, space(rotation((0, 0, 1), 90), (1, 1, 1), (10, 0, 0)))
    node = add_segmentation()
    if together:
        node.SetAndObserveTransformNodeID(transform.GetID())
    writer = SegmentWriter(node, volume)
    segment = writer.add_segment("liver")
    whole = ball((4, 7, 9), 3)
    writer.write(segment, mask_of(whole))
    assert (seen(writer, segment) == whole).all()
    assert (writer.read(segment).array == whole[writer.read(segment).box.slices]).all()


def test_a_segmentation_on_a_finer_grid_keeps_its_grid_and_gets_the_mask_resampled(mrml, volume, add_segmentation):
    node = add_segmentation()
    fine = SPACES["oblique anisotropic"] @ np.array(
        [[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]
    )
    layer = mrml.vtkOrientedImageData()
    layer.SetExtent(0, 31, 0, 27, 0, 23)
    layer.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    layer.GetPointData().GetScalars().Fill(0)
    layer.GetPointData().GetScalars().SetValue(0, 1)
    layer.SetImageToWorldMatrix(matrix_from_array(fine))
    node.AddSegmentFromBinaryLabelmapRepresentation(layer, "fine")
    writer = SegmentWriter(node, volume)
    segment = writer.add_segment("liver")
    whole = ball((4, 7, 9), 3)
    writer.write(segment, mask_of(whole))
    kept = node.GetSegmentation().GetSegment(segment).GetRepresentation("Binary labelmap")
    matrix = vtk.vtkMatrix4x4()
    kept.GetImageToWorldMatrix(matrix)
    np.testing.assert_allclose(array_from_matrix(matrix), fine, atol=1e-6)
    fine_voxels = mrml.util.arrayFromSegmentInternalBinaryLabelmap(node, segment)
    value = node.GetSegmentation().GetSegment(segment).GetLabelValue()
    assert (fine_voxels == value).sum() == 8 * whole.sum()
    read = writer.read(segment)
    assert (read.array == whole[read.box.slices]).all()
    assert read.array.sum() == whole.sum()


def test_segments_on_several_grids_are_refused_with_what_to_do(mrml, volume, writer):
    segment = writer.add_segment("liver")
    writer.write(segment, mask_of(ball((4, 7, 9), 3)))
    layer = mrml.vtkOrientedImageData()
    layer.SetExtent(0, 3, 0, 3, 0, 3)
    layer.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    layer.GetPointData().GetScalars().Fill(1)
    writer.node.AddSegmentFromBinaryLabelmapRepresentation(layer, "elsewhere")
    with pytest.raises(SegmentationError, match="several grids"):
        writer.write(segment, mask_of(ball((4, 7, 9), 3)))


def test_a_segmentation_of_surfaces_is_refused_with_what_to_do(mrml, volume, add_segmentation):
    node = add_segmentation("RTSTRUCT")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere")
    with pytest.raises(SegmentationError, match='"RTSTRUCT" consists of the representation "Closed surface"'):
        SegmentWriter(node, volume)


def test_views_are_told_of_every_segment_that_changed(writer):
    liver, spleen, kidney = (writer.add_segment(name) for name in NAMES)
    writer.write(spleen, mask_of(ball((4, 7, 9), 3)))
    told = []
    segmentation = writer.node.GetSegmentation()
    for name in (liver, spleen, kidney):
        segmentation.GetSegment(name).AddObserver("ModifiedEvent", lambda *_, name=name: told.append(name))
    edit = writer.write(liver, mask_of(ball((4, 7, 11), 3)))
    for change in (lambda: None, lambda: writer.undo(edit), lambda: writer.redo(edit)):
        change()
        assert set(told) == {liver, spleen}
        told.clear()


def test_the_surface_in_3d_views_follows_the_mask(writer):
    segment = writer.add_segment("liver")
    writer.write(segment, mask_of(ball((4, 5, 5), 2)))
    writer.node.CreateClosedSurfaceRepresentation()
    surface = writer.node.GetSegmentation().GetSegment(segment).GetRepresentation("Closed surface")
    before = surface.GetBounds()
    writer.write(segment, mask_of(ball((6, 8, 8), 4)))
    surface = writer.node.GetSegmentation().GetSegment(segment).GetRepresentation("Closed surface")
    assert surface.GetBounds() != before
    assert surface.GetNumberOfPoints() > 0


def test_a_labelmap_takes_as_much_memory_as_its_object_and_not_as_the_volume(mrml, add_segmentation):
    volume = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    image = vtk.vtkImageData()
    image.SetDimensions(512, 512, 300)
    image.AllocateScalars(vtk.VTK_SHORT, 1)
    volume.SetAndObserveImageData(image)
    writer = SegmentWriter(add_segmentation(), volume)
    segment = writer.add_segment("lesion")
    for k in range(150, 170):
        box = VoxelBox((200, 210, k), (240, 240, k + 1))
        writer.write(segment, VoxelMask(box, np.ones(box.shape, bool)))
    layer = writer.node.GetSegmentation().GetSegment(segment).GetRepresentation("Binary labelmap")
    assert layer.GetNumberOfPoints() < 100**3
    assert writer.read(segment).array.sum() == 20 * 40 * 30
