"""A server for the studies of a DICOM server, asked as OHIF asks it."""

import io
import json
from collections.abc import Iterator

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_server import dicom_server, save_series
from running_server import Running

BOX = {"box": [4, 9, 4, 21, 22, 8], "label": "ball"}

pytest.importorskip("highdicom", reason='DICOM SEG needs the extra "dicom"')


@pytest.fixture(scope="module")
def dicom(start, balls, save_ball_adapter, tmp_path_factory) -> Iterator[tuple[Running, str]]:
    """The server, and the one series on the DICOM server."""
    folder = tmp_path_factory.mktemp("dicom")
    image = np.asarray(nib.load(balls(folder / "images", 1) / "ball_0.nii.gz").dataobj)
    series = save_series(folder / "files" / "series", image.transpose(2, 1, 0), 0)
    save_ball_adapter(folder / "adapters" / "ball")
    with dicom_server(folder / "files") as (address, _):
        copies = str(folder / "copies")
        # without a way to the internet, where MONAI Label would look for a program
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "MONAI_LABEL_DICOMWEB_CACHE_PATH": copies}
        options = ("--adapters", str(folder / "adapters"))
        yield start(folder / "server", *options, address=address, **nowhere), series


def segments(segmentation: pydicom.Dataset) -> list[str]:
    return [str(segment.SegmentLabel) for segment in segmentation.SegmentSequence]


def frames(segmentation: pydicom.Dataset) -> dict[float, np.ndarray]:
    """Position along the series -> (rows, columns), of a DICOM SEG with one segment."""
    groups = segmentation.PerFrameFunctionalGroupsSequence
    places = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    pixels = segmentation.pixel_array.reshape(len(places), segmentation.Rows, segmentation.Columns)
    return dict(zip(places, pixels.astype(bool), strict=True))


def by_position(mask: np.ndarray) -> dict[float, np.ndarray]:
    """The same of (I, J, K), 3 mm from slice to slice, without empty slices."""
    return {3.0 * k: mask[:, :, k].T for k in range(mask.shape[2]) if mask[:, :, k].any()}


def assert_same(found: dict[float, np.ndarray], expected: dict[float, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    assert all((found[place] == expected[place]).all() for place in expected)


def test_the_next_image_to_label_comes_with_what_ohif_opens_it_by(dicom):
    server, series = dicom
    for strategy in ("random", "uncertainty"):  # before anything has a label
        told = server.ask("POST", f"/activelearning/{strategy}", json={"model": "ball"}).json()
        assert (told["id"], told["SeriesInstanceUID"], told["Modality"]) == (series, series, "CT")
        assert told["StudyInstanceUID"] not in ("", "UNK")


def test_a_mask_is_answered_as_dicom_seg_of_its_series(dicom):
    server, series = dicom
    expected = server.mask("ball", BOX, series)
    assert expected.any()
    reply = server.infer("ball", BOX, series, output="dicom_seg")
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/dicom"), reply.text
    segmentation = pydicom.dcmread(io.BytesIO(reply.content))
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == series
    assert segments(segmentation) == ["ball"]
    assert_same(frames(segmentation), by_position(expected))
    assert not server.received()


def test_ohifs_label_is_stored_on_the_dicom_server_and_found_there_through_this_one(dicom):
    server, series = dicom
    label = np.zeros((30, 28, 12), dtype=np.uint8)
    label[5:12, 6:20, 3:7] = 1
    reply = server.ask(
        "PUT",
        "/datastore/label",
        params={"image": series, "tag": "final"},
        data={"params": json.dumps({"label_info": [{"name": "liver", "color": [255, 0, 0]}]})},
        files={"label": ("label.bin", label.tobytes(order="F"))},
    )
    assert reply.status_code == 200, reply.text
    assert server.ask("GET", "/info/").json()["datastore"]["completed"] == 1
    (found,) = server.ask("GET", "/proxy/dicom/qido/series", params={"Modality": "SEG"}).json()
    about = pydicom.Dataset.from_json(found)
    path = f"studies/{about.StudyInstanceUID}/series/{about.SeriesInstanceUID}"
    reply = server.ask("GET", f"/proxy/dicom/wado/{path}", headers={"Accept": "multipart/related"})
    assert reply.headers["Content-Type"].startswith("multipart/related")
    segmentation = pydicom.dcmread(io.BytesIO(reply.content.partition(b"\r\n\r\n")[2]))
    assert segments(segmentation) == ["liver"]
    assert_same(frames(segmentation), by_position(label > 0))
    assert [one["00100020"]["Value"] for one in server.ask("GET", "/proxy/dicom/qido/studies?PatientID=0").json()] == [
        ["0"]
    ]
    assert server.ask("GET", "/proxy/dicom/qido/studies?PatientID=1").json() == []


def test_what_ohif_stores_passes_through_to_the_dicom_server(dicom):
    server, series = dicom
    segmentation = server.infer("ball", BOX, series, output="dicom_seg").content
    uid = str(pydicom.dcmread(io.BytesIO(segmentation)).SeriesInstanceUID)
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + segmentation + b"\r\n--x--"
    kind = 'multipart/related; type="application/dicom"; boundary=x'
    # the OHIF that comes with MONAI Label stores where it reads
    reply = server.ask("POST", "/proxy/dicom/wado/studies", data=body, headers={"Content-Type": kind})
    assert reply.status_code == 200, reply.text
    stored = server.ask("GET", "/proxy/dicom/qido/series", params={"Modality": "SEG"}).json()
    assert uid in [one["0020000E"]["Value"][0] for one in stored]


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("DELETE", "/datastore/label?id={series}&tag=final", 422, "remove them there"),
        ("DELETE", "/datastore/?id={series}", 422, "remove them there"),
        ("PUT", "/datastore/label?image=1.2.3", 404, "there is no image 1.2.3"),
        ("GET", "/proxy/dicom/wado/..%2f..%2fsecret", 404, "nothing to be read"),
        ("GET", "/proxy/dicom/wado/studies/%252e%252e/secret", 404, "nothing to be read"),
        ("GET", "/proxy/dicom/wado/studies/..;/secret", 404, "nothing to be read"),
        ("GET", "/proxy/dicom/wado/secret", 404, "nothing to be read"),
        ("POST", "/proxy/dicom/wado/studies/1.2/reject/113001^DCM", 404, "nothing to be read or stored"),
    ],
)
def test_what_is_not_done_on_a_dicom_server_is_refused(dicom, method, path, status, reason):
    server, series = dicom
    files = {"label": ("label.bin", b"")} if method == "PUT" else None
    reply = server.ask(method, path.format(series=series), files=files)
    assert (reply.status_code, reason in reply.json()["detail"]) == (status, True), reply.text
