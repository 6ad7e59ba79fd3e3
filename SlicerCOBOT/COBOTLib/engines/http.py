"""Requests that a user can cancel, with errors that say what to do."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import urlsplit

from ..jobs import Cancelled, Job
from .base import EngineError

_PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        status: of HTTP.
        content_type: as the server says it.
        body: the bytes.
    """

    status: int
    content_type: str
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)

    def parts(self) -> dict[str, tuple[str | None, bytes]]:
        """The parts of a multipart body: name -> (file name, content).

        Raises:
            ValueError: it is no multipart body.
        """
        if not self.content_type.startswith("multipart/"):
            raise ValueError(f"the answer is {self.content_type or 'of no type'}")
        header = f"Content-Type: {self.content_type}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(header + self.body)
        if message.defects:
            raise ValueError(f"the answer is damaged ({message.defects[0]})")
        parts = {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            parts[str(name)] = (part.get_filename(), part.get_payload(decode=True))
        return parts


class Server:
    """A server at an address. One request at a time.

    Args:
        address: such as ``http://127.0.0.1:8000``; a path in it is kept.
        timeout: seconds to wait for a connection, and for an answer to a request that names no other.

    Raises:
        EngineError: the address is none.
    """

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        parts = urlsplit(address.strip())
        try:
            port = parts.port
            (parts.hostname or "").encode("idna")  # as it is looked up: no part of a name is longer than 63 letters
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise EngineError(f'"{address}" is not the address of a server. Write it as http://127.0.0.1:8000.')
        self.address = address.strip().rstrip("/")
        self._secure = parts.scheme == "https"
        self._host, self._port, self._path = parts.hostname, port, parts.path.rstrip("/")
        self._timeout = timeout

    def request(
        self,
        method: str,
        path: str,
        job: Job,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Send a request and wait for the whole answer; cancelling the job ends the wait at once.

        Args:
            method: such as ``"GET"``.
            path: behind the address.
            job: the job that waits.
            body: what is sent.
            content_type: its type.
            timeout: seconds without a byte from the server after which it is given up.

        Raises:
            EngineError: there is no answer.
            Cancelled: if so asked.
        """
        connection = self._connection()
        try:
            job.leave_if_cancelled(connection.connect)
            connection.sock.settimeout(timeout or self._timeout)
            with job.stopped_by(lambda: _shut(connection)):
                headers = {"Content-Type": str(content_type), "Content-Length": str(len(body))} if body else {}
                connection.request(method, self._path + path, _pieces(body, job) if body else None, headers)
                response = connection.getresponse()
                return Reply(response.status, response.getheader("Content-Type", ""), response.read())
        except ssl.SSLCertVerificationError as error:
            raise EngineError(f"{self.address} could not be trusted ({error}). Ask who runs the server.") from error
        except (OSError, http.client.HTTPException) as error:
            if job.cancelled:
                raise Cancelled from None
            raise self._explained(error) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _explained(self, error: Exception) -> EngineError:
        if isinstance(error, ConnectionRefusedError):
            return EngineError(
                f"No server answers at {self.address}. Start it on that computer with: cobot serve --studies FOLDER"
            )
        if isinstance(error, socket.gaierror):
            return EngineError(f"There is no computer {self._host}. Correct the server's address.")
        if isinstance(error, ssl.SSLError):
            return EngineError(
                f"No connection over https to {self.address} ({error}). Try again, or write the address with http:// "
                "if the server does not use https."
            )
        if isinstance(error, TimeoutError):
            return EngineError(f"{self.address} does not answer. It may be busy: try again, or look at its log.")
        return EngineError(
            f"{self.address} ended the connection ({error or type(error).__name__}). Look at the server's log, and "
            "start it again if it is not running."
        )


def _pieces(body: bytes, job: Job) -> Iterator[bytes]:
    """What is sent, piece by piece; the job is told how much of it."""
    for start in range(0, len(body), _PIECE):
        job.report(start, len(body))
        yield body[start : start + _PIECE]
    job.report(0, 0)  # how long the answer takes is not known


def _shut(connection: http.client.HTTPConnection) -> None:
    """End whatever waits for the connection, on any thread."""
    with contextlib.suppress(OSError, AttributeError):  # it may have been closed just now
        connection.sock.shutdown(socket.SHUT_RDWR)


def multipart(fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    """A form to send.

    Args:
        fields: name -> text.
        files: name -> (file name, content).

    Returns:
        the body and its content type.
    """
    boundary = uuid.uuid4().hex
    chunks = []
    for name, text in fields.items():
        chunks += [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode(), text.encode()]
        chunks.append(b"\r\n")
    for name, (file_name, content) in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n'
        chunks += [head.encode(), b"Content-Type: application/octet-stream\r\n\r\n", content, b"\r\n"]
    chunks.append(f"--{boundary}--\r\n".encode())
    return b"".join(chunks), f"multipart/form-data; boundary={boundary}"
