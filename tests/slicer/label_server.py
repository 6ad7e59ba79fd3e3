"""A local HTTP server with the part of MONAI Label's API that is used: sessions, inference, datastore, training.

Its model is a threshold: what is above 100 in the box. ``behaviour`` makes it slow, vanish or talk nonsense.
"""

import json
import threading
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np


class LabelServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.sessions = {}
        self.images, self.labels = {}, {}
        self.requests = []
        self.params = []
        self.training = None
        self.behaviour = "good"
        self.cobot = {"version": "0.1.0", "prompts": 1}
        self.crop_answers = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.go_on.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {key: value[0] for key, value in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        server.requests.append((self.command, path))
        if server.behaviour == "vanish":
            self.close_connection = True
            self.connection.close()
            return None
        if server.behaviour == "hang":
            server.reached.set()
            server.go_on.wait(60)
            return None
        if server.behaviour == "page":
            return self.answer(200, "text/html", b"<html>It works!</html>")
        if server.behaviour == "other json":
            return self.answer(200, "application/json", b'{"status": "up"}')
        if server.behaviour == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{")
            self.close_connection = True
            return None
        if server.behaviour == "error":
            return self.answer(500, "text/plain", b"Internal Server Error")
        if server.behaviour == "login":
            return self.json({"detail": "Not authenticated"}, 401)
        return self.route(path.strip("/").split("/"), query, body)

    do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names that the base class calls

    def route(self, path, query, body):
        server, form = self.server, {}
        if self.headers.get("Content-Type", "").startswith("multipart/"):
            header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            message = BytesParser(policy=HTTP).parsebytes(header + body)
            assert not message.defects
            for part in message.iter_parts():
                form[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True)
        match (self.command, *path):
            case ("GET", "info"):
                models = {
                    "bright one": {"type": "deepgrow", "description": "What is bright"},
                    "bright one_slices": {"type": "deepgrow", "in_slices_of": "bright one"},
                    "liver": {"type": "segmentation", "description": "takes no prompt"},
                }
                if server.training == "DONE":
                    models["trained"] = {"type": "deepgrow", "description": "What was just trained"}
                cobot = {} if server.cobot is None else {"cobot": server.cobot}
                return self.json({"name": "Test", "version": "0.8", "models": models, **cobot})
            case ("PUT", "session"):
                server.sessions[f"s{len(server.sessions)}"] = form["files"]
                return self.json({"session_id": f"s{len(server.sessions) - 1}", "session_info": {}})
            case ("GET", "session", session):
                return self.json({}, 200 if session in server.sessions else 404)
            case ("DELETE", "session", session):
                return self.json({}, 404 if server.sessions.pop(session, None) is None else 200)
            case ("POST", "infer", model):
                if model != "bright one":
                    return self.json({"detail": f"There is no model '{model}' available"}, 422)
                if query["session_id"] not in server.sessions:
                    return self.json({"detail": "there is no such session"}, 404)
                server.params.append(json.loads(form["params"]))
                if server.behaviour == "hang in infer":
                    server.reached.set()
                    server.go_on.wait(60)
                    return None
                return self.infer(server.sessions[query["session_id"]], server.params[-1])
            case ("GET", "datastore", "image", "info") if server.behaviour == "broken datastore":
                return self.json({"detail": "the disk is full"}, 500)
            case ("GET", "datastore", "image", "info"):
                return self.json({"path": "x"} if query["image"] in server.images else {})
            case ("PUT", "datastore", "image"):
                server.images[query["image"]] = form["file"]
                return self.json({"image": query["image"]})
            case ("PUT", "datastore", "label"):
                server.labels[query["image"]] = (query["tag"], form["label"], json.loads(form["params"]))
                return self.json({"image": query["image"], "label": query["image"]})
            case ("POST", "train", _) if server.training == "RUNNING":
                return self.json({"detail": "busy"}, 429)
            case ("POST", "train", model):
                server.training = "RUNNING"
                return self.json({"id": "1", "status": "SUBMITTED", "model": model})
            case ("GET", "train"):
                if server.training is None:
                    return self.json({"detail": "No Train Tasks Found"}, 404)
                return self.json({"id": "1", "status": server.training, "details": ["epoch 1/8", "epoch 2/8"]})
            case ("DELETE", "train"):
                server.training = "STOPPED"
                return self.json({})
        return self.json({"detail": "Not Found"}, 404)

    def infer(self, file, params):
        from COBOTLib.engines.images import mask_from_file, to_file
        from COBOTLib.grid import Grid, VoxelBox

        image, grid = read(file)
        if "boxes" in params:
            low = np.min([box[:3] for box in params["boxes"]], axis=0)
            high = np.max([box[3:] for box in params["boxes"]], axis=0)
        elif "box" in params:
            low, high = np.array(params["box"][:3]), np.array(params["box"][3:])
        else:
            low, high = np.zeros(3, int), np.array(grid.dimensions)
            low[params["slice_axis"]] = params["slice"]
            high[params["slice_axis"]] = params["slice"] + 1
        box = VoxelBox(tuple(low.tolist()), tuple(high.tolist()))
        mask = np.zeros(image.shape, np.uint8)
        mask[box.slices] = image[box.slices] > 100
        if self.server.crop_answers:
            mask, shift = mask[box.slices], np.eye(4)
            shift[:3, 3] = low
            grid = Grid(grid.ijk_to_ras @ shift, tuple((high - low).tolist()))
        content = to_file(np.ascontiguousarray(mask), grid, params["result_extension"])
        assert mask_from_file(content, params["result_extension"], grid) is not None or not mask.any()
        if self.server.behaviour == "nonsense in infer":
            content = b"NRRD0004\nthis is no label map"
        boundary = "b0undary"
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{{}}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="tmp.nrrd"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        body += content + f"\r\n--{boundary}--\r\n".encode()
        return self.answer(200, f"multipart/form-data; boundary={boundary}", body)

    def json(self, value, status=200):
        self.answer(status, "application/json", json.dumps(value).encode())

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def read(file: bytes):
    """Bytes of a NIfTI file -> array (K, J, I) and its grid."""
    import tempfile
    from pathlib import Path

    import nibabel as nib
    from COBOTLib.grid import Grid

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.nii.gz"
        path.write_bytes(file)
        image = nib.load(path)
        return np.asarray(image.dataobj).T, Grid(image.affine, image.shape)
