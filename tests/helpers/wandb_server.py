"""What W&B's agent, client and public API need of its server, on loopback: one sweep of the project me/nlnet, its runs,
and who takes them up again.

It speaks the client's GraphQL, told apart by the names of the operations, and its file stream. An operation that it
does not know is noted in `unknown` and refused.
"""

import contextlib
import gzip
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Run:
    """A run as the server knows it. `starts` holds what an agent was told to type for it, each time."""

    name: str
    starts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    config: Any = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: Any = field(default_factory=dict)
    created: str = "2024-01-01T00:00:00Z"
    state: str = "pending"
    preempting: bool = False
    exit_code: int | None = None


class Sweep:
    """A sweep of these points, of which a preempted run is requeued, as W&B documents it.

    A run that is marked preempting and ends with another code than 0 goes to a queue that is served first; its whole
    configuration is sent as its arguments. A run with `stop_after` lines of history is told to stop, as by an
    early termination.
    """

    def __init__(self, config: str, points: list[dict[str, Any]], stop_after: int | None = None) -> None:
        self.config, self.points, self.queue = config, list(points), list[Run]()
        self.runs: dict[str, Run] = {}
        self.unknown: list[str] = []
        self.stop_after, self.stopped = stop_after, set[str]()
        self._lock = threading.Lock()

    # ---- GraphQL

    def answer(self, operation: str, values: dict[str, Any]) -> Any:
        with self._lock:
            method = getattr(self, f"_{operation}", None)
            if method is None:
                self.unknown.append(operation)
                return None
            return method(values)

    def _Viewer(self, _: Any) -> Any:
        return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def _OrganizationCoreWeaveOrganizationID(self, _: Any) -> Any:
        return {"entity": None}

    def _ServerFeaturesQuery(self, _: Any) -> Any:
        return {"serverInfo": {"features": []}}

    def _SweepWithRuns(self, _: Any) -> Any:
        sweep = {"id": "1", "name": "sweep1", "state": "RUNNING", "config": self.config, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _CreateAgent(self, _: Any) -> Any:
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def _Heartbeat(self, values: Any) -> Any:
        running = json.loads(values["runState"])
        commands = self._stops(running) or ([] if running else [self._next()])
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}

    def _stops(self, running: Any) -> list[dict[str, Any]]:
        return [{"type": "stop", "run_id": name} for name in running if name in self.stopped]

    def _next(self) -> dict[str, Any]:
        for run in self.runs.values():
            if run.state == "started":  # its agent has no such process any more
                run.state = "failed"
        if self.queue:
            run = self.queue.pop(0)
            return self._command("resume", run, run.config)
        if self.points:
            run = self.runs.setdefault(name := f"run{len(self.runs)}", Run(name))
            return self._command("run", run, {key: {"value": value} for key, value in self.points.pop(0).items()})
        return {"type": "exit"}

    def _command(self, kind: str, run: Run, arguments: dict[str, Any]) -> dict[str, Any]:
        run.starts.append((kind, arguments))
        run.state, run.preempting, run.exit_code = "started", False, None
        return {"type": kind, "run_id": run.name, "args": arguments, "program": "src/train.py"}

    def _RunResumeStatus(self, values: Any) -> Any:
        run = self.runs.get(values["name"])
        if run is None or not run.history:
            return {"model": None}
        bucket = {
            "id": run.name,
            "name": run.name,
            "summaryMetrics": "{}",
            "displayName": run.shown.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(run.history[-1])]),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": [],
            "notes": None,
            "wandbConfig": "{}",
        }
        return {"model": {"id": "1", "name": "nlnet", "entity": {"id": "1", "name": "me"}, "bucket": bucket}}

    def _UpsertBucket(self, values: Any) -> Any:
        new = values["name"] not in self.runs
        run = self.runs.setdefault(values["name"], Run(values["name"]))
        run.config |= json.loads(values.get("config") or "{}")
        run.shown |= {key: value for key, value in values.items() if value is not None}
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.shown.get("displayName"),
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": "sweep1",
            "project": {"id": "1", "name": "nlnet", "entity": {"id": "1", "name": "me"}},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _CreateRunFiles(self, values: Any) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": files}}

    # ---- the public API

    def _Runs(self, values: Any) -> Any:
        if (values["entity"], values["project"]) != ("me", "nlnet"):
            return {"project": None}
        newest_first = sorted(self.runs.values(), key=lambda run: run.created, reverse=True)
        start = int(values["cursor"] or 0)
        end = min(start + values["perPage"], len(newest_first))
        edges = [{"node": self._node(newest_first[k]), "cursor": str(k + 1)} for k in range(start, end)]
        page = {"endCursor": str(end), "hasNextPage": end < len(newest_first)}
        return {"project": {"runCount": len(newest_first), "runs": {"edges": edges, "pageInfo": page}}}

    @staticmethod
    def _node(run: Run) -> dict[str, Any]:
        content = {"config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}"}
        times = {"createdAt": run.created, "heartbeatAt": run.created}
        return {"id": run.name, "name": run.name, "projectId": "1", "state": run.state, "tags": []} | times | content

    def _RunSampledHistory(self, values: Any) -> Any:
        (spec,) = map(json.loads, values["specs"])
        rows = [{"_step": step} | row for step, row in enumerate(self.runs[values["name"]].history)]
        found = [{key: row[key] for key in spec["keys"]} for row in rows if row.keys() >= {*spec["keys"]}]
        return {"project": {"run": {"sampledHistory": [found[: spec["samples"]]]}}}

    # ---- the file stream

    def stream(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            run = self.runs[name]
            run.preempting |= bool(content.get("preempting"))
            lines = content.get("files", {}).get("wandb-history.jsonl")
            if lines:
                run.history[lines["offset"] :] = map(json.loads, lines["content"])
            if summary := content.get("files", {}).get("wandb-summary.json"):
                run.summary = json.loads(summary["content"][-1])
            if self.stop_after is not None and len(run.history) >= self.stop_after:
                self.stopped.add(name)
            if content.get("complete"):
                self._end(run, content["exitcode"])
            return {"stopped": True} if name in self.stopped else {}

    def _end(self, run: Run, code: int) -> None:
        run.exit_code = code
        run.state = "finished" if code == 0 else "preempted" if run.preempting else "failed"
        if run.state == "preempted":
            self.queue.append(run)

    address = ""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sweep: Sweep

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/graphql"):
            query = json.loads(body)
            match = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])
            data = self.sweep.answer(match[1] if match else "?", query.get("variables") or {})
            self._reply({"data": data} if data is not None else {"errors": [{"message": "unknown operation"}]})
        elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self._reply(self.sweep.stream(stream[1], json.loads(body)))
        else:
            self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that ends leaves its connections as they are."""


@contextlib.contextmanager
def serving(sweep: Sweep) -> Iterator[dict[str, str]]:
    """Serve a sweep; gives the environment by which agents and runs find the server."""
    handler = type("Handler", (_Handler,), {"sweep": sweep})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    sweep.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {"WANDB_BASE_URL": sweep.address, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
