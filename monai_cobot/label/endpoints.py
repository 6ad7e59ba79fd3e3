"""What the server answers, instead of MONAI Label's own endpoints.

Its endpoints are declared ``async`` and never await: one inference would keep all other requests waiting. They check
little of what they are sent, some run what a request names, and an exception becomes a bare "Internal Server Error".
Here, only what is listed is answered, what may take time runs on threads, requests are checked, and errors reach the
client with their reason. The work itself is MONAI Label's.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Body, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from monailabel.config import settings
from monailabel.endpoints import activelearning, datastore, infer, info, login, logs, ohif
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from monailabel.interfaces.utils.app import app_instance

from monai_cobot.data import IMAGE_SUFFIXES, without_ending
from monai_cobot.errors import describe_cause
from monai_cobot.inferers import CancelToken
from monai_cobot.label.dicom_studies import DicomStudies
from monai_cobot.label.guard import Guard
from monai_cobot.label.tasks import CANCEL, FOLDER
from monai_cobot.label.training_queue import TrainingQueue, TrainingsWaitError

__all__ = ["attach"]

logger = logging.getLogger(__name__)
router = APIRouter()

_User = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
_Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
_Admin = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]

_MOST_LONG_WORK = 40
_OF_THE_ADDRESS = ("image", "model", "session", "session_id", "description")


# --- what is answered, and what is not

_PAGES = ("/", "/docs", "/openapi.json", "/favicon.ico", "/static")

_OF_MONAI_LABEL: list[tuple[APIRouter, str, tuple[str, ...]]] = [
    (info.router, "/info/", ("GET",)),
    (logs.router, "/logs/", ("GET",)),
    (datastore.router, "/datastore/", ("GET", "DELETE")),
    (datastore.router, "/datastore/image", ("GET", "HEAD", "DELETE")),
    (datastore.router, "/datastore/image/info", ("GET", "PUT")),
    (datastore.router, "/datastore/label", ("GET", "HEAD", "DELETE")),
    (datastore.router, "/datastore/label/info", ("GET", "PUT")),
    (datastore.router, "/datastore/updatelabelinfo", ("PUT",)),
]
"""Those of MONAI Label's own endpoints that are answered as they are, on threads; none of them awaits anything."""

if settings.MONAI_LABEL_AUTH_ENABLE:
    _OF_MONAI_LABEL += [
        (login.router, "/auth/", ("GET",)),
        (login.router, "/auth/token", ("POST",)),
        (login.router, "/auth/token/valid", ("GET",)),
    ]

_REFUSED = {
    "/scoring/{rest:path}": "nothing is scored on this server.",  # MONAI Label's runs Python in folders that it is told
    "/batch/{rest:path}": "these models segment what a box or points show; there is none for many images at once.",
    "/infer/wsi/{rest:path}": "whole-slide images are not segmented on this server.",
    "/infer/wsi_v2/{rest:path}": "whole-slide images are not segmented on this server.",
    "/model/{rest:path}": "models are not read or changed over HTTP; train them, or ask who runs the server.",
    "/reload": "the server takes new adapters without it; for new settings, start it again.",
}
"""Endpoints of MONAI Label that are refused with a reason; all others that are not in this module are not there."""


def attach(web: FastAPI, host: str = "127.0.0.1", allow_origins: Sequence[str] = ()) -> None:
    """Let a MONAI Label server answer what is in this module, and nothing else.

    Args:
        web: ``monailabel.app.app``, also while it starts.
        host: as of :class:`~monai_cobot.label.guard.Guard`.
        allow_origins: addresses of web pages elsewhere that may ask, and read its answers.
    """
    web.router.routes[:] = [route for route in web.router.routes if getattr(route, "path", None) in _PAGES]
    web.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
    web.add_exception_handler(MONAILabelException, _explained)
    web.add_exception_handler(json.JSONDecodeError, _no_json)
    web.add_exception_handler(Exception, _failed)
    web.user_middleware[:] = [middleware for middleware in web.user_middleware if middleware.cls is not CORSMiddleware]
    if allow_origins:
        web.user_middleware.append(
            Middleware(CORSMiddleware, allow_origins=list(allow_origins), allow_methods=["*"], allow_headers=["*"])
        )
    web.user_middleware.insert(0, Middleware(Guard, host=host, allow_origins=allow_origins))
    web.middleware_stack = None  # made again for the next request, with these handlers


def _on_a_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint that is declared ``async`` and awaits nothing, as one that the server runs on a thread."""

    def run(**arguments: Any) -> Any:
        return asyncio.run(endpoint(**arguments))

    run.__name__, run.__doc__ = endpoint.__name__, endpoint.__doc__
    # not functools.wraps: FastAPI would see the coroutine that it wraps, and await it
    run.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return run


def _refuse(reason: str) -> Callable[[], None]:
    def refuse() -> None:
        raise HTTPException(403, reason)

    return refuse


for _refused, _reason in _REFUSED.items():
    _methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    router.add_api_route(_refused, _refuse(_reason), methods=_methods, include_in_schema=False)

for _router, _path, _kept in _OF_MONAI_LABEL:
    for _route in _router.routes:
        if isinstance(_route, APIRoute) and _route.path == _path and (_route.methods or set()) & set(_kept):
            router.add_api_route(
                _path,
                _on_a_thread(_route.endpoint),
                methods=sorted((_route.methods or set()) & set(_kept)),
                response_model=_route.response_model,
                summary=_route.summary,
                include_in_schema=_route.include_in_schema,
            )


async def _explained(_: Request, error: Exception) -> Response:
    assert isinstance(error, MONAILabelException)
    missing = isinstance(error, (ImageNotFoundException, LabelNotFoundException))
    missing = missing or error.error == MONAILabelError.APP_INIT_ERROR  # there is no such strategy
    status = 404 if missing else 422 if error.error == MONAILabelError.INVALID_INPUT else 500
    return JSONResponse({"detail": str(error.msg)}, status)


async def _no_json(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"this is not valid JSON: {error}"}, 422)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"the server failed: {describe_cause(error)}. Its log says more."}, 500)


@router.get("/ohif/{path:path}", include_in_schema=False)
def _page_of_ohif(path: str, user: _User) -> Response:
    if "\\" in path or ":" in path:  # on Windows it would lead out of OHIF's folder
        raise HTTPException(404, "there is no such page.")
    return ohif.get_ohif(path)


# --- what requests bring

_LONGEST_LINE = 1 << 20
"""Of a header, in bytes."""


def _object(params: str) -> dict[str, Any]:
    """The params of a form.

    Raises:
        HTTPException: they are no JSON object.
    """
    try:
        value = json.loads(params or "{}")
    except ValueError as error:
        raise HTTPException(422, f"params is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise HTTPException(422, f"params is {params[:80]}; a JSON object is expected.")
    return value


@contextmanager
def _folder_until_the_reply(background_tasks: BackgroundTasks) -> Iterator[Path]:
    """A folder for what a request brings and what is answered, which is removed after the reply, or at once where the
    request fails."""
    folder = Path(tempfile.mkdtemp(dir=app_instance().incoming))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    background_tasks.add_task(shutil.rmtree, folder, ignore_errors=True)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for what a request brings, until it has been dealt with."""
    with tempfile.TemporaryDirectory(dir=app_instance().incoming, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _receive(file: UploadFile, path: Path) -> Path:
    with open(path, "wb") as written:
        shutil.copyfileobj(file.file, written)
    if _names_another_file(path):
        raise HTTPException(
            422, f"{file.filename!r} is a header whose voxels lie in another file; send an image that is one file."
        )
    return path


def _names_another_file(path: Path) -> bool:
    """Whether an NRRD or MetaImage header names the file of its voxels, which could be any of this computer."""
    with open(path, "rb") as file:
        lines = iter(lambda: file.readline(_LONGEST_LINE).rstrip(b"\r\n").lower(), b"")  # until the first empty one
        if path.suffix.lower() in (".mha", ".mhd"):
            last = next((line for line in lines if b"elementdatafile" in line), b"")  # of a header
            return not re.fullmatch(rb"\s*elementdatafile\s*=\s*local\s*", last)
        return next(lines, b"").startswith(b"nrrd") and any(re.match(rb"\s*data ?file\s*:", line) for line in lines)


def _receive_image(file: UploadFile, folder: Path) -> Path:
    """Write an image into a folder, under a name of ours with its ending.

    Raises:
        HTTPException: its name is not that of an image.
    """
    name = Path(file.filename or "").name
    ending = name[len(without_ending(name)) :]
    if not ending:
        raise HTTPException(
            422, f"{file.filename!r} is not the name of an image, which ends with {', '.join(IMAGE_SUFFIXES)}."
        )
    return _receive(file, folder / f"image{ending}")


def _receive_series(files: Sequence[UploadFile], folder: Path) -> Path:
    """Write the files of a DICOM series into a folder, under names of ours.

    Raises:
        HTTPException: one of them is no DICOM file.
    """
    series = folder / "series"
    series.mkdir()
    for number, file in enumerate(files):
        if file.file.read(132)[128:] != b"DICM":
            raise HTTPException(
                422,
                f"{file.filename!r} is no DICOM file. Several files are those of one DICOM series; send any other "
                "image alone.",
            )
        file.file.seek(0)
        _receive(file, series / f"{number:05d}.dcm")
    return series


# --- inference


async def _while_listening(http: Request, work: Callable[..., Any], *arguments: Any) -> Any:
    """Work on a thread; the token of this request is cancelled when the client goes away."""
    token = CancelToken()
    CANCEL.set(token)
    watching = asyncio.create_task(_cancel_when_gone(http, token))
    try:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=_long_work())
    finally:
        watching.cancel()


@cache
def _long_work() -> anyio.CapacityLimiter:
    """Threads of their own for what may wait for others, so that all else is answered meanwhile."""
    return anyio.CapacityLimiter(_MOST_LONG_WORK)


async def _cancel_when_gone(http: Request, token: CancelToken) -> None:
    while not await http.is_disconnected():
        await asyncio.sleep(0.1)
    token.cancel()


@router.post("/infer/{model}")
async def run_inference(
    http: Request,
    background_tasks: BackgroundTasks,
    model: str,
    user: _User,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: infer.ResultType | None = None,
) -> Any:
    """Segment in an image of the studies, of a session, or in one that is sent along."""
    return await _while_listening(
        http, _infer, background_tasks, model, image, session_id, _object(params), file, output
    )


def _infer(
    background_tasks: BackgroundTasks,
    model: str,
    image: str,
    session_id: str,
    params: dict[str, Any],
    file: UploadFile | None,
    output: infer.ResultType | None,
) -> Any:
    named = [name for name in _OF_THE_ADDRESS if name in params]
    if named:
        raise HTTPException(422, f"{named[0]} is said in the address of the request, not in its params.")
    app = app_instance()
    if not (file or image or session_id):
        raise HTTPException(422, "there is no image: name one of the studies (image), a session_id, or send a file.")
    session = _session(session_id) if session_id else None
    if image and not (file or session) and image not in app.datastore().list_images():
        raise HTTPException(404, f"there is no image {image!r} in the studies.")
    with _folder_until_the_reply(background_tasks) as folder:
        FOLDER.set(folder)
        if output == infer.ResultType.dicom_seg:
            if file or session:
                raise HTTPException(422, "DICOM SEG is written for images of the studies alone; ask for image.")
            return _infer_dicom_seg(model, image, params, folder / "segmentation.dcm")
        if session:
            image = session.image
        elif file:
            image = str(_receive_image(file, folder))
        result = app.infer({**params, "model": model, "image": image})
        if output == infer.ResultType.image and result["file"] is None:  # nothing was found, and a part was asked for
            return Response(status_code=204)
        return infer.send_response(app.datastore(), result, output, background_tasks)


def _infer_dicom_seg(model: str, image: str, params: dict[str, Any], path: Path) -> Response:
    app = app_instance()
    studies = app.datastore()
    if not isinstance(studies, DicomStudies):
        raise HTTPException(422, "DICOM SEG is written for studies on a DICOM server alone; ask for image.")
    params = {**params, "result_extension": ".nii.gz", "result_crop": False}
    result = app.infer({**params, "model": model, "image": image})
    if not result["params"]["voxels"]:
        return Response(status_code=204)
    names = params.get("label_info") or [{"name": name} for name in result["params"]["label_names"]]
    studies.write_segmentation(image, result["file"], names, path)
    return FileResponse(path, media_type="application/dicom", filename=f"{image}.dcm")


# --- images, labels and sessions


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    user: _Annotator,
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
) -> Any:
    """Add an image to the studies."""
    about = {**_object(params), "user": user.username}
    with _folder() as folder:
        received = _receive_image(file, folder)
        name = image or without_ending(Path(file.filename or "").name)
        return {"image": app_instance().datastore().add_image(name, str(received), about)}


@router.put("/datastore/label")
def save_label(
    user: _Annotator,
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = "final",
) -> Any:
    """Keep a label of an image."""
    app, about = app_instance(), _object(params)
    with _folder() as folder:
        name = Path(label.filename or "").name
        ending = name[len(without_ending(name)) :] or Path(name).suffix[:10]  # OHIF's is .bin
        received = _receive(label, folder / f"label{ending}")
        kept = app.datastore().save_label(image, str(received), tag or "final", about)
        return {**(app.on_save_label(image, kept) or {}), "image": image, "label": kept}


@router.get("/datastore/dataset")
def download_dataset(background_tasks: BackgroundTasks, user: _Annotator, limit_cases: int | None = None) -> Response:
    """All images with a label, and their labels, as an archive."""
    studies = app_instance().datastore()
    if not studies.get_labeled_images():
        raise HTTPException(404, "no image has a label yet.")
    archive = Path(studies.get_dataset_archive(limit_cases))
    background_tasks.add_task(archive.unlink, missing_ok=True)  # MONAI Label leaves it there
    return FileResponse(archive, media_type="application/zip", filename="dataset.zip")


@router.put("/session/")
def create_session(
    user: _User,
    files: Annotated[list[UploadFile], File()],
    uncompress: bool = False,
    expiry: int = 0,
) -> Any:
    """Keep an image, or the files of a DICOM series, for a while."""
    if uncompress:
        raise HTTPException(422, "archives are not unpacked; send the image, or all files of a series.")
    sessions = app_instance().sessions()
    if sessions is None:
        raise HTTPException(406, "this server keeps no sessions.")
    with _folder() as folder:
        received = _receive_image(files[0], folder) if len(files) == 1 else _receive_series(files, folder)
        session_id, session = sessions.add_session(str(received), expiry)
        return {"session_id": session_id, "session_info": session.to_json()}


@router.get("/session/{session_id}")
def get_session(session_id: str, user: _User) -> Any:
    """What is known of a session."""
    return _session(session_id).to_json()


@router.delete("/session/{session_id}")
def remove_session(session_id: str, user: _User) -> Any:
    """Remove a session with its image."""
    session = _session(session_id)
    app_instance().sessions().remove_session(session_id)
    return session.to_json()


def _session(session_id: str) -> Any:
    """A session by its id, which is never part of a path that leads elsewhere.

    Raises:
        HTTPException: there is none.
    """
    sessions = app_instance().sessions()
    found = None
    if sessions is not None and re.fullmatch(r"[0-9a-f-]{1,64}", session_id):
        found = sessions.get_session(session_id)
    if found is None:
        raise HTTPException(404, f"there is no session {session_id}; it may have expired. Send the image again.")
    return found


@router.get("/proxy/dicom/{operation}/{path:path}", include_in_schema=False)
@router.post("/proxy/dicom/{operation}/{path:path}", include_in_schema=False)
async def ask_dicom_server(http: Request, operation: Literal["wado", "qido", "stow"], path: str, user: _User) -> Any:
    """What OHIF asks the DICOM server that the studies are on, with what it may pass on of the request."""
    studies = app_instance().datastore()
    if not isinstance(studies, DicomStudies):
        raise HTTPException(404, "these studies are on no DICOM server.")
    headers = {name: http.headers[name] for name in ("accept", "content-type") if name in http.headers}
    asked = (http.method, operation, path, http.url.query, headers, await http.body())
    answer = await anyio.to_thread.run_sync(studies.forward, *asked, limiter=_passed_on())
    # what a DICOM server holds, such as a report in HTML, is no page of this one
    guarded = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    return Response(answer.content, answer.status_code, guarded, answer.headers.get("Content-Type"))


@cache
def _passed_on() -> anyio.CapacityLimiter:
    """Threads of their own for what waits for a DICOM server."""
    return anyio.CapacityLimiter(_MOST_LONG_WORK)


# --- what to label next


@router.post("/activelearning/{strategy}")
async def next_sample(
    http: Request, strategy: str, user: _User, params: Annotated[dict[str, Any] | None, Body()] = None
) -> Any:
    """Choose the next image."""
    return await _while_listening(http, activelearning.sample, strategy, params, user.username)


# --- training

_trainings = TrainingQueue()


@router.post("/train/{model}")
def start_training(
    model: str, user: _Admin, params: Annotated[dict[str, Any] | None, Body()] = None, enqueue: bool = False
) -> Any:
    """Train a model from the labels on the server, in the background."""
    params = params or {}
    try:
        return _trainings.submit(
            {"model": model, **params}, lambda others: app_instance().orders_of(model, params, others), enqueue
        )
    except TrainingsWaitError as error:
        raise HTTPException(429, str(error)) from error


@router.post("/train/")
def start_all_trainings(
    user: _Admin, params: Annotated[dict[str, Any] | None, Body()] = None, enqueue: bool = False
) -> Any:
    """Train the models that the params name, one after the other; without, the first."""
    params = params or {}
    trainers = list(app_instance().info()["trainers"])
    named = [model for model in trainers if isinstance(params.get(model), dict)] or trainers[:1]
    return {
        model: {"result": start_training(model, user, params.get(model), enqueue or number > 0), "detail": None}
        for number, model in enumerate(named)
    }


@router.get("/train/")
def training_status(user: _User, all: bool = False, check_if_running: bool = False) -> Any:
    """How the last training is, or all of them; or the one that has not ended yet."""
    tasks = _trainings.tasks()
    if check_if_running:
        tasks = [task for task in tasks if task["status"] in ("SUBMITTED", "RUNNING")][:1]
    if not tasks:
        raise HTTPException(404, "no training runs." if check_if_running else "there was no training yet.")
    return tasks if all and not check_if_running else tasks[-1]


@router.delete("/train/")
def stop_training(user: _Admin) -> Any:
    """Stop what trains, and what waits to train; the adapters stay as they are."""
    return _trainings.stop()
