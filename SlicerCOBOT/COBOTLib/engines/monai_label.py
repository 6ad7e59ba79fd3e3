"""A MONAI Label server (0.8) over HTTP.

A scan is sent once (``PUT /session/``) and asked about as often as wanted (``POST /infer/{model}``). What a request
says of the prompt, in its ``params``; voxels are (i, j, k) of the image that was sent, boxes half-open:

========================  ============================================================================================
``slice_axis``            0, 1, 2 for i, j, k: along which slices follow one another
``slice``                 index of the slice; absent for a 3D prompt
``box``                   ``[i0, j0, k0, i1, j1, k1]``: in a slice one voxel thick, else the 3D box; absent for points
``foreground``            ``[[i, j, k], ...]``: points in the object
``background``            ``[[i, j, k], ...]``: points that are not
``boxes``                 ``[[i0, j0, k0, i1, j1, k1], ...]``: propagate from these slices
``reach``                 the most slices beyond them; absent until the object ends
``preset``                intensity preset; absent for the model's own
``result_extension``      ``.nrrd``
``result_dtype``          ``uint8``
``result_crop``           true: the part of the grid that the object is in is enough
========================  ============================================================================================

The answer is a form with the label map as ``image``, on the grid of the scan or on a part of it; JSON alone where
nothing was found. ``monai_cobot.label.prompts`` is the other side.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from ..grid import VoxelBox, VoxelMask
from ..jobs import Job
from ..prompts import Prompt, PropagationPrompt, RegionPrompt, SlicePrompt
from .base import AdapterInfo, Engine, EngineError, Scan
from .http import Reply, Server, multipart
from .images import mask_from_file, to_file

# What this module says of prompts (the table above); a server that understands something else has another number.
_PROTOCOL = 1
# The kinds of MONAI Label's models that take a box or points.
_PROMPTED = ("annotation", "deepedit", "deepgrow")
_MINUTES = 60.0
_SCANS = 8


@dataclass(frozen=True)
class Training:
    """How a training on the server is.

    Attributes:
        status: ``"SUBMITTED"``, ``"RUNNING"``, ``"STOPPED"``, ``"DONE"`` or ``"ERROR"``.
        said: the last line that it wrote.
    """

    status: str
    said: str = ""

    @property
    def runs(self) -> bool:
        """Whether it goes on."""
        return self.status in ("SUBMITTED", "RUNNING")


class MonaiLabelEngine(Engine):
    """Segments, keeps labels and trains on a MONAI Label server.

    Args:
        address: such as ``http://127.0.0.1:8000``.
        infer_timeout: seconds to wait for a mask.

    Raises:
        EngineError: the address is none.
    """

    def __init__(self, address: str, infer_timeout: float = 10 * _MINUTES) -> None:
        self._server = Server(address)
        self._infer_timeout = infer_timeout
        self._sessions: dict[str, str] = {}  # scan key -> id on the server

    def test(self, job: Job) -> str:
        info = self._info(job)
        models = self._prompted(info)
        return (
            f"monai_cobot {info['cobot']['version']} on {self._server.address} with {len(models)} models for prompts."
        )

    def adapters(self, job: Job) -> list[AdapterInfo]:
        return [
            AdapterInfo(name, name, str(model.get("description", "")))
            for name, model in self._prompted(self._info(job)).items()
        ]

    def segment(self, scan: Scan, prompt: Prompt, adapter: str, preset: str | None, job: Job) -> VoxelMask | None:
        params: dict[str, Any] = {
            **_params(prompt),
            "result_extension": ".nrrd",
            "result_dtype": "uint8",
            "result_crop": True,
        }
        if preset is not None:
            params["preset"] = preset
        known = scan.key in self._sessions
        reply = self._infer(scan, params, adapter, job)
        if known and reply.status != 200 and not self._is_kept(scan, job):
            reply = self._infer(scan, params, adapter, job)  # sends the scan again
        self._checked(reply, f'"{adapter}"')
        if reply.content_type.startswith("application/json"):
            return None  # MONAI Label leaves the image out where there is none
        try:
            name, content = reply.parts()["image"]
            return mask_from_file(content, _suffix(name), scan.grid)
        except (ValueError, KeyError) as error:
            raise self._nonsense(f"no label map ({error})") from error

    def forget_scans(self) -> None:
        sessions, self._sessions = self._sessions, {}
        # the server forgets them by itself too, after some time; one that does not answer is asked once
        with contextlib.suppress(EngineError):
            for session in sessions.values():
                self._delete(session, Job(lambda _: None))

    # --- labels and training

    def submit(self, scan: Scan, labels: dict[str, VoxelMask], job: Job) -> str:
        """Keep the final label of a scan on the server, and the scan where the server does not have it.

        Args:
            scan: the image.
            labels: name of each structure -> its mask in the grid of the scan; a later one overwrites an earlier one.
            job: stops this.

        Returns:
            what the server calls the scan: its name, and a digest of its content, for scans of several patients may
            have the same name.

        Raises:
            EngineError, Cancelled: as ``test``; the server has kept nothing, or the scan alone.
        """
        image_id = _image_id(scan)
        label_map = np.zeros(scan.array.shape, dtype=np.uint8 if len(labels) < 256 else np.uint16)
        for value, mask in enumerate(labels.values(), start=1):
            label_map[mask.box.slices][mask.array] = value
        image = quote(image_id, safe="")
        known = self._server.request("GET", f"/datastore/image/info?image={image}", job)
        if known.status == 404 or self._checked(known, "the datastore").body.strip() in (b"", b"{}", b"null"):
            body, content_type = multipart({"params": "{}"}, {"file": ("image.nii.gz", self._file(scan))})
            self._checked(
                self._server.request("PUT", f"/datastore/image?image={image}", job, body, content_type, _MINUTES),
                "the datastore",
            )
        info = [{"name": name, "idx": value} for value, name in enumerate(labels, start=1)]
        body, content_type = multipart(
            {"params": json.dumps({"label_info": info})},
            {"label": ("label.nii.gz", to_file(label_map, scan.grid))},
        )
        self._checked(
            self._server.request("PUT", f"/datastore/label?image={image}&tag=final", job, body, content_type, _MINUTES),
            "the datastore",
        )
        return image_id

    def train(self, model: str, job: Job, options: dict[str, Any] | None = None) -> None:
        """Start to train a model from the labels on the server. It goes on when Slicer is closed.

        Args:
            model: id of one of ``adapters``; of a SAM without an adapter, a new adapter is trained.
            job: stops waiting for the server.
            options: of the training, such as ``epochs``; None for the server's own.

        Raises:
            EngineError, Cancelled: as ``test``; also if a training runs.
        """
        body = json.dumps(options or {}).encode()
        path = f"/train/{quote(model, safe='')}"
        # a server of DICOM studies fetches labelled series first
        reply = self._server.request("POST", path, job, body, "application/json", timeout=5 * _MINUTES)
        if reply.status == 429:
            raise EngineError("The server trains already. Wait until it has ended, or stop it.")
        self._checked(reply, f'training "{model}"')

    def training(self, job: Job) -> Training | None:
        """How the last training is; None before the first.

        Raises:
            EngineError, Cancelled: as ``test``.
        """
        reply = self._server.request("GET", "/train/", job)
        if reply.status == 404:
            return None
        task = self._json(self._checked(reply, "training"), "status")
        details = task.get("details")
        return Training(str(task["status"]), str(details[-1]) if isinstance(details, list) and details else "")

    def stop_training(self, job: Job) -> None:
        """Stop the training on the server; the adapter stays as it was before.

        Raises:
            EngineError, Cancelled: as ``test``.
        """
        self._checked(self._server.request("DELETE", "/train/", job), "training")

    # --- the server

    def _info(self, job: Job) -> dict[str, Any]:
        reply = self._server.request("GET", "/info/", job)
        if reply.status == 401:
            raise EngineError(f"{self._server.address} asks for a login, which is not supported. Ask who runs it.")
        return self._json(self._checked(reply, "its information"), "models")

    def _prompted(self, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The models that take prompts, without those that are another of them for slices alone."""
        self._check_protocol(info)
        models = info["models"]
        if not isinstance(models, dict) or not all(isinstance(model, dict) for model in models.values()):
            raise self._nonsense("no list of models")
        found = {
            name: model
            for name, model in models.items()
            if model.get("type") in _PROMPTED and str(model.get("in_slices_of")) not in models
        }
        if not found:
            raise EngineError(
                f"{self._server.address} has no model that takes a box or points. Start it with the COBOT app: cobot "
                "serve --studies FOLDER"
            )
        return found

    def _check_protocol(self, info: dict[str, Any]) -> None:
        """Whether the server understands what it would be asked."""
        cobot, here = info.get("cobot"), self._server.address
        if not isinstance(cobot, dict) or not isinstance(cobot.get("prompts"), int) or "version" not in cobot:
            raise EngineError(
                f'{here} runs the app "{info.get("name", "without a name")}" of MONAI Label, which does not know the '
                "prompts that are drawn here. Start COBOT's own app: cobot serve --studies FOLDER"
            )
        if cobot["prompts"] < _PROTOCOL:
            raise EngineError(
                f"monai_cobot {cobot['version']} on {here} is older than this module. Update it there: pip install "
                "--upgrade monai-cobot"
            )
        if cobot["prompts"] > _PROTOCOL:
            raise EngineError(
                f"This module is older than monai_cobot {cobot['version']} on {here}. Update the extension COBOT in "
                "the Extensions Manager, or the folder that it was installed from."
            )

    def _infer(self, scan: Scan, params: dict[str, Any], adapter: str, job: Job) -> Reply:
        """Asks about a scan, whether it was sent before or not."""
        if scan.key not in self._sessions:
            self._send(scan, job)
        body, content_type = multipart({"params": json.dumps(params)}, {})
        path = f"/infer/{quote(adapter, safe='')}?session_id={quote(self._sessions[scan.key])}&output=all"
        return self._server.request("POST", path, job, body, content_type, timeout=self._infer_timeout)

    def _is_kept(self, scan: Scan, job: Job) -> bool:
        """Whether the server still has a scan; it may have been started again, or the session has expired."""
        if self._server.request("GET", f"/session/{quote(self._sessions[scan.key])}", job).status == 200:
            return True
        del self._sessions[scan.key]
        return False

    def _send(self, scan: Scan, job: Job) -> None:
        body, content_type = multipart({}, {"files": ("image.nii.gz", self._file(scan))})
        reply = self._server.request("PUT", "/session/", job, body, content_type, timeout=5 * _MINUTES)
        if reply.status == 406:
            raise EngineError(f"{self._server.address} keeps no sessions. Start it with MONAI_LABEL_SESSIONS=true.")
        answer = self._json(self._checked(reply, "the scan"), "session_id")
        self._sessions[scan.key] = str(answer["session_id"])
        with contextlib.suppress(EngineError):
            while len(self._sessions) > _SCANS:
                self._delete(self._sessions.pop(next(iter(self._sessions))), job)

    def _delete(self, session: str, job: Job) -> None:
        self._server.request("DELETE", f"/session/{quote(session)}", job)

    def _file(self, scan: Scan) -> bytes:
        try:
            return to_file(scan.array, scan.grid)
        except ValueError as error:
            raise EngineError(
                f'"{scan.name}" cannot be sent: {error}. Resample it in the module "Resample Scalar Volume".'
            ) from error

    def _checked(self, reply: Reply, what: str) -> Reply:
        if reply.status == 200:
            return reply
        try:
            detail, said = str(reply.json()["detail"]), True
        except (ValueError, KeyError, TypeError):
            detail, said = reply.body[:200].decode(errors="replace").strip(), False
        refused = f"{self._server.address} refused {what}"
        if reply.status >= 500:
            raise EngineError(f"{refused} (HTTP {reply.status}: {detail}). Look at the server's log.")
        if said and detail not in ("Not Found", "Method Not Allowed"):  # which a server of something else says
            raise EngineError(f"{refused}: {detail}")
        raise EngineError(f"{refused} (HTTP {reply.status}: {detail or 'not found'}). Check the address.")

    def _json(self, reply: Reply, key: str) -> dict[str, Any]:
        """The answer, which must be an object with a key."""
        try:
            answer = reply.json()
        except ValueError:
            raise self._nonsense("no JSON") from None
        if not isinstance(answer, dict) or key not in answer:
            raise self._nonsense(f'no "{key}"')
        return answer

    def _nonsense(self, what: str) -> EngineError:
        return EngineError(
            f"{self._server.address} is not a MONAI Label server with COBOT's app: its answer holds {what}. Check the "
            "address."
        )


def _image_id(scan: Scan) -> str:
    """A name that only this content has, and that is one of a file."""
    digest = hashlib.sha256(np.ascontiguousarray(scan.array))
    digest.update(str((scan.array.shape, scan.array.dtype.str, np.round(scan.grid.ijk_to_ras, 4).tolist())).encode())
    name = re.sub(r"[^\w -]+", "_", scan.name).strip(" _")[:60]
    return f"{name or 'scan'}_{digest.hexdigest()[:16]}"


def _params(prompt: Prompt) -> dict[str, Any]:
    """What the server is told of a prompt."""
    params: dict[str, Any] = {"slice_axis": prompt.axis}
    if isinstance(prompt, SlicePrompt):
        params["slice"] = prompt.index
        if prompt.box is not None:
            params["box"] = _six(prompt.box)
        params["foreground"] = [list(point) for point in prompt.positive]
        params["background"] = [list(point) for point in prompt.negative]
    elif isinstance(prompt, RegionPrompt):
        params["box"] = _six(prompt.box)
    elif isinstance(prompt, PropagationPrompt):
        params["boxes"] = [_six(box) for box in prompt.boxes]
        if prompt.reach is not None:
            params["reach"] = prompt.reach
    return params


def _six(box: VoxelBox) -> list[int]:
    return [*box.low, *box.high]


def _suffix(name: str | None) -> str:
    """Of a label map's name, which the server chose: never more than a suffix of it is used."""
    for suffix in (".nii.gz", ".nrrd", ".nii", ".mha"):
        if name is not None and name.lower().endswith(suffix):
            return suffix
    raise ValueError(f"a label map named {name}")
