"""SAM's weights from a real HTTP server on this computer, which may also fail."""

import hashlib
import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from COBOTLib.engines.base import EngineError
from COBOTLib.jobs import Background, Cancelled, Job, State
from COBOTLib.weights import VIT_B, WeightsFile, _shut, fetch

CONTENT = bytes(range(256)) * 20_000  # 5 MB


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests += 1
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        half = len(CONTENT) // 2
        self.wfile.write(CONTENT[:half])
        if server.behaviour == "hang":
            server.reached.set()
            server.go_on.wait(60)
        if server.behaviour == "whole":
            self.wfile.write(CONTENT[half:])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.status, server.requests, server.behaviour = 200, 0, "whole"
    server.reached, server.go_on = threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def weights(server):
    address = f"http://127.0.0.1:{server.server_port}/sam.pth"
    return WeightsFile("sam.pth", address, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def job():
    return Job(lambda job: None)


def test_weights_are_downloaded_with_progress_and_then_taken_from_the_folder(server, weights, tmp_path):
    waiting = job()
    path = fetch(weights, tmp_path / "new", waiting)
    assert path.read_bytes() == CONTENT
    assert waiting.progress == (len(CONTENT), len(CONTENT))
    assert fetch(weights, tmp_path / "new", job()) == path
    assert server.requests == 1


def test_a_file_of_that_name_with_another_content_is_replaced(weights, tmp_path):
    (tmp_path / "sam.pth").write_bytes(b"half a download")
    assert fetch(weights, tmp_path, job()).read_bytes() == CONTENT


def test_what_has_another_digest_is_not_kept(server, weights, tmp_path):
    other = WeightsFile(weights.name, weights.url, weights.size, VIT_B.sha256)
    with pytest.raises(EngineError, match="SHA-256 differs"):
        fetch(other, tmp_path, job())
    server.behaviour = "cut off"
    with pytest.raises(EngineError, match="not all of it"):
        fetch(weights, tmp_path, job())
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_is_not_there_says_how_to_get_the_file_otherwise(server, weights, tmp_path):
    server.status = 404
    with pytest.raises(EngineError, match=r'404.*with a browser and choose the file under "SAM weights"'):
        fetch(weights, tmp_path, job())
    gone = WeightsFile(weights.name, "http://127.0.0.1:9/sam.pth", weights.size, weights.sha256)
    with pytest.raises(EngineError, match="with a browser"):
        fetch(gone, tmp_path, job())
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(server, weights, tmp_path):
    server.behaviour = "hang"
    with pytest.raises(EngineError, match="timed out"):
        fetch(weights, tmp_path, job(), timeout=0.2)
    assert list(tmp_path.iterdir()) == []


def test_cancelling_ends_a_download_at_once_and_leaves_nothing(server, weights, tmp_path):
    server.behaviour = "hang"
    background = Background()
    results = []
    background.start(lambda job: fetch(weights, tmp_path, job), results.append)
    assert server.reached.wait(10)
    background.cancel()
    while background.state != State.IDLE:
        background.update()
    assert not server.go_on.is_set()  # the server still hangs: nothing waited for it
    assert results == []
    assert list(tmp_path.iterdir()) == []
    assert background.close()


def test_cancelling_when_all_has_come_or_the_connection_is_closed_harms_nothing(server, weights):
    response = urllib.request.urlopen(weights.url)
    response.read()
    _shut(response)
    response.close()
    _shut(response)


def test_cancelling_ends_the_wait_for_a_connection_too(tmp_path):
    with socket.socket() as full:  # takes no connection: what waits for one waits
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        slow = WeightsFile("sam.pth", f"http://127.0.0.1:{full.getsockname()[1]}/sam.pth", 1, "")
        asked = job()
        threading.Timer(0.1, asked.cancel).start()
        with pytest.raises(Cancelled):
            fetch(slow, tmp_path, asked, timeout=60)
        for other in waiting:
            other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_was_cancelled_before_downloads_nothing(weights, tmp_path):
    waiting = job()
    waiting.cancel()
    with pytest.raises(Cancelled):
        fetch(weights, tmp_path, waiting)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(weights, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineError, match="cannot be written"):
        fetch(weights, tmp_path / "file", job())
