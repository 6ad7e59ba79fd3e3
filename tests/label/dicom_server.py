"""A small DICOM server: what MONAI Label asks of DICOMweb, of files in a folder."""

import copy
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

BOUNDARY = b"between"


def save_series(folder: Path, array: np.ndarray, number: int, step: float = 3, thickness: float = 3) -> str:
    """Writes (K, J, I) int16 as a CT series, 1 mm by 1 mm by ``step`` mm, into a folder; returns its UID.

    With a negative step, the first slice is the uppermost, and the files' names are in another order than the slices.
    """
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for index, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = str(number), "Ball", "", ""
        image.StudyID, image.StudyDate, image.StudyTime, image.AccessionNumber = "1", "20200101", "120000", ""
        image.Modality, image.SeriesNumber, image.InstanceNumber = "CT", 1, index + 1
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, step * index], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness, image.Manufacturer = [1, 1], thickness, ""
        image.Rows, image.Columns, image.SamplesPerPixel = *plane.shape, 1
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PhotometricInterpretation, image.PixelData = "MONOCHROME2", plane.astype("<i2").tobytes()
        name = index if step > 0 else 7 * index % 100
        image.save_as(folder / f"{name:02}.dcm", enforce_file_format=True)
    return series


@contextmanager
def dicom_server(folder: Path, seconds: float = 0) -> Iterator[tuple[str, list[str]]]:
    """Serves the DICOM files below a folder, each series after so many seconds, and keeps what is stored there.

    Where the folder has a file ``broken``, an answer with a series ends in its middle; ``short``, it lacks the last
    instance; ``cut``, the last one lacks pixels; ``full``, nothing is stored; ``secret``, no metadata are told. With
    one that is called ``pages``, no more than two series are told at a time.

    Yields:
        The address, and the series that were asked for, as they are asked.
    """
    files = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    downloaded: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            parts, asked = address.path.strip("/").split("/"), parse_qs(address.query)
            if parts[-1] in ("series", "studies"):  # QIDO
                wanted = {
                    name: asked[name][0] for name in ("Modality", "SeriesInstanceUID", "PatientID") if name in asked
                }
                unit = "SeriesInstanceUID" if parts[-1] == "series" else "StudyInstanceUID"
                found = {of[unit].value: of for of in files if all(of[n].value == v for n, v in wanted.items())}
                names = ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "StudyDate", "StudyTime")
                told = [pick(of, names) for of in found.values()]
                for one in told:
                    same = [of for of in files if of[unit].value == one[unit].value]
                    one.NumberOfSeriesRelatedInstances = len(same)
                begin = int(asked.get("offset", ["0"])[0])
                self.tell(told[begin : begin + 2] if (folder / "pages").exists() else told)
                return
            instances = [of for of in files if parts[1] == of.StudyInstanceUID and parts[3] == of.SeriesInstanceUID]
            if parts[4:] == ["metadata"] and (folder / "secret").exists():
                self.send_error(404)
                return
            if parts[4:] == ["metadata"]:  # WADO
                self.tell([pick(of, [n for n in of.dir() if n != "PixelData"]) for of in instances])
                return
            downloaded.append(parts[3])
            time.sleep(seconds)
            body = b""
            for instance in instances[:-1] if (folder / "short").exists() else instances:
                written = io.BytesIO()
                sent = copy.deepcopy(instance)
                if instance is instances[-1] and (folder / "cut").exists():
                    sent.PixelData = sent.PixelData[:-20]
                sent.save_as(written)
                body += b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + written.getvalue() + b"\r\n"
            kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'
            self.answer(body + b"--" + BOUNDARY + b"--\r\n", kind, broken=(folder / "broken").exists())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if (folder / "full").exists():
                self.send_error(409, "no space left")
                return
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"--" + boundary)[1:-1]]
            stored = [pydicom.dcmread(io.BytesIO(part)) for part in parts]
            files.extend(stored)
            answer = pydicom.Dataset()
            answer.ReferencedSOPSequence = [pydicom.Dataset() for _ in stored]
            for told, one in zip(answer.ReferencedSOPSequence, stored, strict=True):
                told.ReferencedSOPClassUID, told.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
            self.answer(answer.to_json().encode(), "application/dicom+json")

        def tell(self, datasets: list[pydicom.Dataset]) -> None:
            found = "[" + ",".join(of.to_json() for of in datasets) + "]"
            self.answer(found.encode(), "application/dicom+json")

        def answer(self, body: bytes, kind: str, broken: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if broken else body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", downloaded
    finally:
        server.shutdown()
        server.server_close()


def pick(dataset: pydicom.Dataset, names: list[str] | tuple[str, ...]) -> pydicom.Dataset:
    picked = pydicom.Dataset()
    for name in names:
        if name in dataset:
            picked[name] = dataset[name]
    return picked
