"""A stand-in for the wandb service on loopback that keeps what it is sent: the protocol of wandb 0.31 for runs, history, files and artifacts.

with serve() as server:
    server.environment()        # what points wandb at it
    server.rows("run id")       # its history, as the service would show it
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "somebody"
KEY = "0" * 40
"""Any key will do; it has the length of one."""


@dataclass
class Run:
    """One run: its fields as `upsertBucket` got them, and its streams, a line each: {"wandb-history.jsonl": [...], ...}."""

    project: str
    name: str
    said: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None


class WandbServer:
    """`runs` by id. `artifacts`: names of those that were committed. `unknown`: operations that it was asked for and does not know."""

    def __init__(self) -> None:
        self.url = ""
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.artifacts: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self._named: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def environment(self) -> dict[str, str]:
        """Environment of a process whose wandb is to send here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def rows(self, run_id: str) -> list[dict[str, Any]]:
        """The run's history, row by row as it stands on the server."""
        with self.lock:
            return [json.loads(line) for line in self.runs[run_id].streams.get("wandb-history.jsonl", [])]

    # ---- what the service does

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """`data` of a GraphQL reply."""
        with self.lock:
            known = getattr(self, f"_{operation}", None)
            if known is None:
                self.unknown.append(operation)
                raise KeyError(operation)
            return known(given)  # type: ignore[no-any-return]

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Lines of files from an offset on: what stood there before is replaced, line by line."""
        with self.lock:
            run = self.runs[run_id]
            for name, chunk in (body.get("files") or {}).items():
                lines, at = run.streams.setdefault(name, []), chunk["offset"]
                assert at <= len(lines) or name == "output.log", f"{name}: rows {len(lines)} to {at} were never sent"
                lines[at : at + len(chunk["content"])] = chunk["content"]
            if body.get("complete"):
                run.exit_code = body.get("exitcode")

    def _Viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "admin": False, "flags": "{}", "teams": {"edges": []}}}

    def _ServerFeaturesQuery(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _XXHashDigestsEnabled(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        return {"model": {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None if run is None else self._status(run)}}

    def _status(self, run: Run) -> dict[str, Any]:
        history, events = run.streams.get("wandb-history.jsonl", []), run.streams.get("wandb-events.jsonl", [])
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.said.get("displayName"),
            "summaryMetrics": (run.streams.get("wandb-summary.json") or ["{}"])[-1],
            "logLineCount": len(run.streams.get("output.log", [])),
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "config": run.said.get("config") or "{}",
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),  # telemetry: without it the client takes the run for one that never began
        }

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        inserted = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], Run(given.get("project") or "uncategorized", given["name"]))
        run.said |= {name: value for name, value in given.items() if value is not None}
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {"id": run.name, "name": run.name, "displayName": run.said.get("displayName"), "description": None, "config": run.said.get("config") or "{}"}
        bucket |= {"sweepName": None, "project": project, "historyLineCount": len(run.streams.get("wandb-history.jsonl", []))}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _MarkRunFilesUploaded(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}

    def _RunState(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"state": "running", "stopped": False}}}

    def _FetchArtifactDigestAlgorithm(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifactType": None}}

    def _ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = given["input"]
        artifact_id = self._id("artifact")
        self._named[artifact_id] = (asked.get("artifactCollectionNames") or asked.get("artifactCollectionName") or [artifact_id])[0]
        sequence = {"id": self._id("sequence"), "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": artifact_id, "state": "PENDING", "artifactSequence": sequence}}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(given)}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(given)}}

    def _manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        manifest_id = given.get("artifactManifestID") or self._id("manifest")
        file = {"id": self._id("file"), "name": "wandb_manifest.json", "displayName": "wandb_manifest.json", "uploadHeaders": []}
        return {"id": manifest_id, "file": file | {"uploadUrl": f"{self.url}/upload/artifacts/{manifest_id}"}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in given["input"]["artifactFiles"]:
            url = f"{self.url}/upload/artifacts/{spec['artifactID']}/{spec['name']}"
            node = {"id": self._id("file"), "name": spec["name"], "displayName": spec["name"], "uploadUrl": url, "uploadHeaders": []}
            node |= {"storagePath": spec["name"], "artifact": {"id": spec["artifactID"]}, "uploadMultipartUrls": None}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(self._named.get(given["artifactID"], given["artifactID"]))
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def _UseArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"useArtifact": {"artifact": {"id": given["input"]["artifactID"], "digest": "", "description": None, "metadata": None}}}

    def _id(self, what: str) -> str:
        return base64.b64encode(f"{what}:{next(self._numbers)}".encode()).decode()


@contextlib.contextmanager
def serve() -> Iterator[WandbServer]:
    """A server that listens meanwhile."""
    server = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/graphql":
                self._reply(*self._asked(json.loads(body)))
            elif self.path.startswith("/files/") and self.path.endswith("/file_stream"):
                try:
                    server.stream(self.path.split("/")[-2], json.loads(body))
                    self._reply(200, {"exitcode": None, "limits": {}})
                except (AssertionError, KeyError) as error:
                    server.unknown.append(f"file_stream: {error}")
                    self._reply(409, {"error": str(error)})
            else:  # measurements of the client itself
                self._reply(200, {})

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            _, _, owner, name = (self.path + "/").split("/", 3)
            with server.lock:
                server.uploads[self.path] = body
                if owner in server.runs:
                    server.runs[owner].files[name.rstrip("/")] = body
            self._reply(200, {})

        def do_GET(self) -> None:
            self._reply(200, {})

        def _asked(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            operation = request.get("operationName") or request["query"].split("(")[0].split("{")[0].split()[-1]
            try:
                return 200, {"data": server.answer(operation, request.get("variables") or {})}
            except Exception as error:  # what it does not know is kept in `unknown`, for the test to see
                server.unknown += [] if operation in server.unknown else [f"{operation}: {error!r}"]
                return 200, {"errors": [{"message": f"{operation} is not known here"}]}

        def _reply(self, status: int, data: dict[str, Any]) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that goes away in the middle is none."""

    httpd = Server(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{httpd.server_port}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
