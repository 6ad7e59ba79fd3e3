"""Who is answered, in front of an application that answers everyone."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from running_server import free_port

uvicorn = pytest.importorskip("uvicorn", reason="the server's packages are not installed (docs/server.md)")

from monai_cobot.label.guard import Guard  # noqa: E402
from monai_cobot.label.server import is_this_computer  # noqa: E402


async def _answer(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})


@contextmanager
def _listening(guard: Guard, address: str) -> Iterator[str]:
    """The guard on a port of an address; gives the port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(guard, host=address, port=port, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    yield str(port)
    server.should_exit = True
    thread.join()


def _address_in_the_network() -> str:
    import socket

    import psutil

    known = [of.address for all_of in psutil.net_if_addrs().values() for of in all_of if of.family == socket.AF_INET]
    outside = [address for address in known if not address.startswith("127.")]
    if not outside:
        pytest.skip("this computer has no address but its own")
    return outside[0]


def test_what_comes_in_from_the_network_is_answered_where_that_was_asked_for_alone():
    import requests

    address = _address_in_the_network()
    for host, status in (("127.0.0.1", 403), ("localhost", 403), ("0.0.0.0", 200), (address, 200)):
        with _listening(Guard(_answer, host), "0.0.0.0") as port:
            assert requests.get(f"http://{address}:{port}/", timeout=30).status_code == status, host
            assert requests.get(f"http://127.0.0.1:{port}/", timeout=30).status_code == 200, host


@pytest.mark.parametrize(
    ("host", "asked_as", "status"),
    [
        ("127.0.0.1", "192.168.7.7", 403),
        ("0.0.0.0", "192.168.7.7", 200),  # an address is what it is, and no page can give itself one
        ("0.0.0.0", "workstation", 403),
        ("workstation", "workstation", 200),
        ("workstation", "WORKSTATION", 200),
        ("127.0.0.1", "cobot.example", 200),
        ("127.0.0.1", "cobot.example.evil.example", 403),
    ],
)
def test_the_server_is_asked_by_names_that_were_given_to_it(host, asked_as, status):
    import requests

    with _listening(Guard(_answer, host, ["https://cobot.example"]), "127.0.0.1") as port:
        headers = {"Host": f"{asked_as}:{port}"}
        reply = requests.get(f"http://127.0.0.1:{port}/", headers=headers, timeout=30)
        assert reply.status_code == status
        assert status == 200 or repr(headers["Host"]) in reply.json()["detail"]


def test_a_page_behind_a_proxy_uses_the_server_where_it_is_named():
    import requests

    with _listening(Guard(_answer, "127.0.0.1", ["https://cobot.example"]), "127.0.0.1") as port:
        for origin, status in (("https://cobot.example", 200), ("https://other.example", 403)):
            headers = {"Origin": origin, "Host": "cobot.example"}
            reply = requests.post(f"http://127.0.0.1:{port}/", headers=headers, timeout=30)
            assert reply.status_code == status


def test_addresses_of_this_computer_are_known_in_all_their_forms():
    for name in ("127.0.0.1", "127.9.9.9", "localhost", "LocalHost", "::1", "::ffff:127.0.0.1"):
        assert is_this_computer(name), name
    for name in ("0.0.0.0", "::", "192.168.7.7", "workstation", "localhost.evil.example", ""):
        assert not is_this_computer(name), name
