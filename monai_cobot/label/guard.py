"""Who is answered: programs on this computer, and the pages that the server itself delivers.

There is no login, and a browser on the same computer reaches the server whatever page it shows. Such a page can send
forms and requests without a body to any address, and by giving its own name the address 127.0.0.1 it can even read the
answers (DNS rebinding). A browser says in ``Origin`` which page asks, and in ``Host`` by which name; a page cannot
change either. Programs such as 3D Slicer send no ``Origin``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from monai_cobot.label.server import is_address, is_this_computer

__all__ = ["Guard"]

_NAMES = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Refuses, with 403 and the reason, what others than those above send.

    Args:
        app: what answers.
        host: the address that the server was told to listen on. Where it is that of this computer alone, what comes in
            by another is refused, even if whoever started the server made it listen there.
        allow_origins: addresses of web pages that may ask, such as ``"http://ohif.example:3000"``; the server may also
            be asked by their names, as behind a proxy.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", allow_origins: Sequence[str] = ()) -> None:
        self._app = app
        self._is_open = not is_this_computer(host)
        # an address cannot be given another meaning, as a name can
        self._by_any_address = is_address(host) and ipaddress.ip_address(host).is_unspecified
        self._origins = {origin.lower() for origin in allow_origins}
        self._names = {*_NAMES, host.lower(), *(_name_of(origin.partition("//")[2]) for origin in allow_origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._refusal(scope) if scope["type"] == "http" else None
        answer = self._app if reason is None else JSONResponse({"detail": reason}, 403)
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        server = scope.get("server")
        if server is not None and not self._is_open and not is_this_computer(server[0]):
            return (
                "this server is for programs on its own computer. Who runs it can open it to the network: with --host, "
                "and for MONAI Label's own command also with --conf host ADDRESS."
            )
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1:
            return f"a request has one Host; this one has {len(hosts)}."
        name = _name_of(hosts[0])
        if name not in self._names and not (self._by_any_address and is_address(name)):
            return (
                f"this server is not asked by the name {hosts[0]!r}, so that no web page can take it for its own: use "
                "its address, or name http://NAME:PORT with --allow-origin where it is started."
            )
        others = [origin for origin in origins if not self._is_own(origin, hosts[0])]
        if others:
            return (
                f"web pages of {others[0]!r} may not use this server: name that address with --allow-origin where it "
                "is started."
            )
        return None

    def _is_own(self, origin: str, host: str) -> bool:
        return origin.lower() in self._origins or origin.partition("//")[2].lower() == host.lower()


def _values(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]


def _name_of(host: str) -> str:
    """The name in "name:port"; empty where there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
