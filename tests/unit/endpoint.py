"""A scripted OpenAI-compatible endpoint: real HTTP on loopback, every way in which one misbehaves."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {"error_class": "temporal", "hint": "Look at 1.0 s.", "spans": [], "frames_s": [1.0], "regions": []}


class Script:
    """Answers of the server in order; the last one goes on for ever. `asked`: bodies of the requests; `headers`: their headers."""

    def __init__(self) -> None:
        self.steps: list = []
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.lock = threading.Lock()
        self.busy = self.most = 0

    def next(self, body: dict, headers: dict) -> object:
        with self.lock:
            self.asked.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]


@contextlib.contextmanager
def serve():
    """Script of a server that listens meanwhile; its `url`."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                script.busy += 1
                script.most = max(script.most, script.busy)
            step = script.next(body, dict(self.headers))
            try:
                step(self)
            except OSError:
                self.close_connection = True
            with script.lock:
                script.busy -= 1

        def log_message(self, *_: object) -> None:
            """Quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    script.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    yield script
    httpd.shutdown()
    httpd.server_close()


def raw(status: int, body: bytes, **headers: str):
    def send(handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def says(content: object, calls: list | None = None):
    text = content if isinstance(content, str) or content is None else json.dumps(content)
    message = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
    done = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}}
    return raw(200, json.dumps(done | {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode())


def calls(name: str, **arguments: object):
    return says(None, [{"id": "call-1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}])


def hint(text: str, **change: object):
    return says(GOOD | {"hint": text} | change)


def late(seconds: float):
    def send(handler) -> None:
        time.sleep(seconds)
        says(GOOD)(handler)

    return send


def cut_off(handler) -> None:
    """Announces more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True
