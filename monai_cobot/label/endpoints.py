"""What is put in front of MONAI Label's own endpoints.

Its endpoints are declared ``async`` and never await: one inference would keep all other requests waiting. They check
little of what they are sent, and an exception becomes a bare "Internal Server Error". Here, what may take time runs on
threads, requests are checked, and errors reach the client with their reason. The work itself is MONAI Label's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import psutil
from fastapi import APIRouter, Body, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.endpoints import activelearning, datastore, infer, session, train
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks import utils as background
from monailabel.utils.async_tasks.task import AsyncTask

from monai_cobot.data import IMAGE_SUFFIXES
from monai_cobot.inferers import CancelToken
from monai_cobot.label.tasks import CANCEL, UPLOADED
from monai_cobot.label.training import prepare

__all__ = ["attach"]

logger = logging.getLogger(__name__)
router = APIRouter()

_User = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
_Annotator = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
_Admin = Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]

_OF_THE_ADDRESS = ("image", "model", "session", "session_id", "description")
_TAIL = 100


def attach(web: FastAPI, allow_origins: Sequence[str] = ()) -> None:
    """Put the endpoints of this module in front of those of a MONAI Label server.

    Args:
        web: ``monailabel.app.app``, also while it starts.
        allow_origins: addresses of web pages elsewhere that may read its answers.
    """
    before = len(web.router.routes)
    web.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
    routes = web.router.routes
    routes[:] = [*routes[before:], *routes[:before]]
    web.add_exception_handler(MONAILabelException, _explained)
    web.add_exception_handler(json.JSONDecodeError, _no_json)
    web.user_middleware[:] = [middleware for middleware in web.user_middleware if middleware.cls is not CORSMiddleware]
    if allow_origins:
        cors = {"allow_origins": list(allow_origins), "allow_methods": ["*"], "allow_headers": ["*"]}
        web.user_middleware.append(Middleware(CORSMiddleware, **cors))
    web.middleware_stack = None  # made again for the next request, with these handlers


async def _explained(_: Request, error: Exception) -> Response:
    assert isinstance(error, MONAILabelException)
    missing = isinstance(error, (ImageNotFoundException, LabelNotFoundException))
    missing = missing or error.error == MONAILabelError.APP_INIT_ERROR  # there is no such strategy
    status = 404 if missing else 422 if error.error == MONAILabelError.INVALID_INPUT else 500
    return JSONResponse({"detail": str(error.msg)}, status)


async def _no_json(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"this is not valid JSON: {error}"}, 422)


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


def _check_image_name(file: UploadFile) -> None:
    """Whether a file that is sent is called as an image is.

    Raises:
        HTTPException: it is not.
    """
    if not (file.filename or "").lower().endswith(IMAGE_SUFFIXES):
        raise HTTPException(
            422, f"{file.filename!r} is not the name of an image, which ends with {', '.join(IMAGE_SUFFIXES)}."
        )


# --- inference


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
    named = [name for name in _OF_THE_ADDRESS if name in _object(params)]
    if named:
        raise HTTPException(422, f"{named[0]} is said in the address of the request, not in its params.")
    app = app_instance()
    if not (file or image or session_id):
        raise HTTPException(422, "there is no image: name one of the studies (image), a session_id, or send a file.")
    if file:
        _check_image_name(file)
    if session_id and not _session(app, session_id):
        raise HTTPException(404, f"there is no session {session_id}; it may have expired. Send the image again.")
    if image and not (file or session_id) and image not in app.datastore().list_images():
        raise HTTPException(404, f"there is no image {image!r} in the studies.")
    if output == infer.ResultType.dicom_seg and not isinstance(app.datastore(), DICOMWebDatastore):
        raise HTTPException(422, "DICOM SEG is written for studies on a DICOM server alone; ask for output=image.")
    token = CancelToken()
    CANCEL.set(token)
    UPLOADED.set(file is not None)
    watching = asyncio.create_task(_cancel_when_gone(http, token))
    try:
        return await run_in_threadpool(
            infer.run_inference, background_tasks, model, image, session_id, params, file, None, output
        )
    finally:
        watching.cancel()


async def _cancel_when_gone(http: Request, token: CancelToken) -> None:
    while not await http.is_disconnected():
        await asyncio.sleep(0.1)
    token.cancel()


@router.post("/batch/infer/{model}")
def run_batch_inference(model: str, user: _Admin) -> None:
    """Refused: without prompts there is nothing to segment."""
    raise HTTPException(422, "these models segment what a box or points show; there is none for many images at once.")


# --- images, labels and sessions


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    background_tasks: BackgroundTasks,
    user: _Annotator,
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
) -> Any:
    """Add an image to the studies."""
    _object(params)
    _check_image_name(file)
    return datastore.add_image(background_tasks, image, params, file, user.username)


@router.put("/datastore/label")
def save_label(
    background_tasks: BackgroundTasks,
    user: _Annotator,
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = "final",
) -> Any:
    """Keep a label of an image."""
    _object(params)
    return datastore.save_label(background_tasks, image, params, tag, label, user.username)


@router.put("/session/")
def create_session(
    background_tasks: BackgroundTasks,
    user: _User,
    files: Annotated[list[UploadFile], File()],
    uncompress: bool = False,
    expiry: int = 0,
) -> Any:
    """Keep an image, or the files of a DICOM series, for a while."""
    if uncompress:
        raise HTTPException(422, "archives are not unpacked; send the image, or all files of a series.")
    names = [Path(file.filename or "").name for file in files]
    if any(name in ("", ".", "..") for name in names) or len(set(names)) < len(names):
        raise HTTPException(422, f"the files are called {names}; each needs a name of its own.")
    if len(files) == 1:
        _check_image_name(files[0])
    return session.create_session(background_tasks, False, expiry, files)


def _session(app: Any, session_id: str) -> Any:
    """A session by its id, which is never part of a path that leads elsewhere; None where there is none."""
    if app.sessions() is None or not re.fullmatch(r"[0-9a-f-]{1,64}", session_id):
        return None
    return app.sessions().get_session(session_id)


# --- what to label next


@router.post("/activelearning/{strategy}")
def next_sample(strategy: str, user: _User, params: Annotated[dict[str, Any] | None, Body()] = None) -> Any:
    """Choose the next image."""
    return activelearning.sample(strategy, params, user.username)


# --- models


@router.put("/model/{model}")
@router.delete("/model/{model}")
def change_model(model: str, user: _Annotator) -> None:
    """Refused: adapters are put into the folder of adapters, by who runs the server."""
    raise HTTPException(403, "models are not uploaded or deleted over HTTP; train them, or ask who runs the server.")


# --- training


_starting = threading.Lock()


@router.post("/train/{model}")
def start_training(
    model: str, user: _Admin, params: Annotated[dict[str, Any] | None, Body()] = None, enqueue: bool = False
) -> Any:
    """Train a model from the labels on the server, in the background."""
    with _starting:
        if not enqueue and any(task["status"] in ("SUBMITTED", "RUNNING") for task in background.tasks("train")):
            raise HTTPException(429, "a training runs already; wait until it has ended, or stop it.")
        folder, orders = app_instance().orders_of(model, params or {})
        goes_on = prepare(folder, orders)
        task = {
            "id": str(uuid.uuid4()),
            "status": "SUBMITTED",
            "request": {"model": model, **(params or {})},
            "adapter": Path(orders.adapter).name,
            "goes_on": goes_on,
            "start_ts": _now(),
            "details": deque(maxlen=_TAIL),
        }
        # where MONAI Label keeps its own, for GET and DELETE
        background.background_tasks.setdefault("train", []).append(task)
        background.background_processes.setdefault("train", {})
        background.background_executors.setdefault("train", ThreadPoolExecutor(max_workers=1))
        background.background_executors["train"].submit(_follow, task, folder)
        return task


@router.post("/train/")
def start_all_trainings(user: _Admin, params: Annotated[dict[str, Any] | None, Body()] = None) -> Any:
    """Train the models that the params name, one after the other; without, the first."""
    params = params or {}
    trainers = list(app_instance().info()["trainers"])
    named = [model for model in trainers if isinstance(params.get(model), dict)] or trainers[:1]
    return {
        model: {"result": start_training(model, user, params.get(model), enqueue=True), "detail": None}
        for model in named
    }


@router.delete("/train/")
def stop_training(user: _Admin) -> Any:
    """Stop what trains, and what waits to train; the adapters stay as they are."""
    waiting = [task for task in background.tasks("train") if task["status"] == "SUBMITTED"]
    for task in waiting:
        task.update(status="STOPPED", end_ts=_now())
    try:
        stopped = train.stop()
    except psutil.NoSuchProcess:  # it came to its end just now
        stopped = None
    return stopped or (waiting[-1] if waiting else None)


def _follow(task: dict[str, Any], folder: Path) -> None:
    """Run a training to its end, as MONAI Label does, and write what it says into the log."""
    if task["status"] == "STOPPED":
        return
    log = logging.getLogger("task_train")
    command = [sys.executable, "-m", "monai_cobot.label.training", str(folder)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    background.background_processes["train"][task["id"]] = process
    if task["status"] == "STOPPED":  # just now
        AsyncTask.stop("train")
    else:
        task["status"] = "RUNNING"
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            log.info(line.rstrip())
            task["details"].append(line.rstrip())
    code = process.wait()
    background.background_processes["train"].pop(task["id"], None)
    if task["status"] == "RUNNING":
        task.update(status="DONE" if code == 0 else "ERROR", end_ts=_now())


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
