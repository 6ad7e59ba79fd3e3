"""A MONAI Label server in a process of its own, and how tests ask it."""

import gzip
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SIZE = 64
ALLOWED = "http://ohif.example:3000"  # whose pages may use the server
PATIENCE = 240  # seconds; a busy computer starts a server slowly


@dataclass
class Running:
    """A server.

    Attributes:
        studies: its folder.
        process: its process.
        address: where it answers.
        log: what it says.
        temporary: the folder for its temporary files.
    """

    studies: Path
    process: subprocess.Popen
    address: str
    log: Path
    temporary: Path

    @property
    def adapters(self) -> Path:
        return self.studies / "adapters"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def received(self) -> list[str]:
        """Files of clients that the server has outside its studies and sessions, and folders for them."""
        folders = (self.studies / ".cobot" / "incoming", self.temporary)
        found = [path for folder in folders for path in folder.rglob("*")]
        return [str(path) for path in found if path.suffix != ".json"]  # MONAI Label's settings of its log

    def ask(self, method: str, path: str, **options):
        """A request; ``options`` are those of the package requests."""
        import requests

        return requests.request(method, self.address + path, timeout=PATIENCE, **options)

    def infer(self, model: str, params: dict, image: str = "", **query: str):
        """The reply to an inference request."""
        query = {"image": image, **query}
        return self.ask("POST", f"/infer/{model}", params=query, data={"params": json.dumps(params)})

    def mask(self, model: str, params: dict, image: str, **query: str) -> np.ndarray:
        """(I, J, K) bool, of the whole grid."""
        reply = self.infer(model, {**params, "result_extension": ".nii.gz"}, image, output="image", **query)
        assert reply.status_code == 200, reply.text
        return nib.Nifti1Image.from_bytes(gzip.decompress(reply.content)).get_fdata() > 0

    def submit(self, image: str, label: Path, names: dict[str, int], tag: str = "final"):
        """The reply to a label."""
        info = [{"name": name, "idx": value} for name, value in names.items()]
        with open(label, "rb") as file:
            return self.ask(
                "PUT",
                "/datastore/label",
                params={"image": image, "tag": tag},
                data={"params": json.dumps({"label_info": info})},
                files={"label": (label.name, file)},
            )

    def training(self) -> dict:
        """How the last training is."""
        return self.ask("GET", "/train/").json()

    def wait_for_training(self, until: Callable[[dict], bool] = lambda task: False) -> dict:
        """Waits until the training has ended, or until it says so."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            task = self.training()
            if task["status"] not in ("SUBMITTED", "RUNNING") or until(task):
                return task
            time.sleep(0.1)
        raise TimeoutError(f"the training does not end: {task}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def start_server(command: list[str], studies: Path, port: int, **variables: str) -> Running:
    """Starts a server with further environment variables, and waits until it answers."""
    log = studies.parent / f"{studies.name}_{port}.log"
    temporary = studies.parent / f"temporary_{port}"
    temporary.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)} | variables
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=studies.parent)
    server = Running(studies, process, f"http://127.0.0.1:{port}", log, temporary)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            if server.ask("GET", "/info/").status_code == 200:
                return server
        time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"the server does not answer:\n{log.read_text(encoding='utf-8')[-3000:]}")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
