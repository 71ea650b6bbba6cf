"""A server that speaks vLLM's protocol, with a tiny model behind it, and misbehaves on request."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from agents.engine.generation import generate
from agents.engine.jobs import Job
from agents.population import LoraPopulation

COMPLETIONS, MODELS, VERSION = "/v1/completions", "/v1/models", "/version"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@dataclass
class Answer:
    """What goes over the wire."""

    status: int = 200
    body: object = ""
    headers: dict = field(default_factory=dict)
    cut: int | None = None  # bytes after which the connection is closed

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


def error(status, message, kind="BadRequestError"):
    return Answer(status, {"error": {"message": message, "type": kind, "code": status}})


class FakeVllm:
    """Serves a tiny base and the adapters it was told to load.

    Args:
        base: What it decodes with.
        slots: Adapters that it has room for in all.
        most: Adapters that it takes before it says that it holds no more.
        rank: The largest it takes.
    """

    def __init__(self, base, *, slots=16, most=None, rank=8, version="0.11.0", context=2048):
        self.base, self.most, self.rank = base, slots if most is None else most, rank
        self.version, self.context, self.name, self.root = version, context, "served", base.path
        self.population = LoraPopulation(base, slots, rank)
        self.rows: dict[str, int] = {}
        self.paths: dict[str, str] = {}
        self.calls: list[tuple[str, object]] = []
        self.keys: set[str] = set()
        self.most_seen = 0
        self.running, self.most_running = 0, 0
        self.delay = 0.0
        self.faults: dict[str, list] = {}
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.population.lora.detach()

    def fault(self, path, *answers):
        """Misbehave in the next requests to a path: once for each of these.

        An answer is an `Answer`, or makes one from the request's body and what would be right.
        """
        self.faults.setdefault(path, []).extend(answers)

    def always(self, path, answer):
        self.fault(path, *[answer] * 1000)

    def forget(self):
        """As after a restart."""
        self.rows.clear()
        self.paths.clear()

    def count(self, path):
        return sum(called == path for called, _ in self.calls)

    def respond(self, path, body):
        with self.lock:
            self.calls.append((path, body))
            waiting = self.faults.get(path)
            fault = waiting.pop(0) if waiting else None
        if isinstance(fault, Answer):
            return fault
        right = self._right(path, body)
        return right if fault is None else fault(body, right)

    def _right(self, path, body):
        if path == COMPLETIONS:
            with self.lock:
                self.running += 1
                self.most_running = max(self.most_running, self.running)
            time.sleep(self.delay)
            with self.lock:
                self.running -= 1
                return self._complete(body)
        with self.lock:
            if path == VERSION:
                return Answer(body={"version": self.version})
            if path == MODELS:
                return Answer(body={"object": "list", "data": self._cards()})
            if path == LOAD:
                return self._load(body["lora_name"], body["lora_path"])
            if path == UNLOAD:
                return self._unload(body["lora_name"])
        return Answer(404, {"detail": "Not Found"})

    def _cards(self):
        base = {"id": self.name, "root": self.root, "parent": None, "max_model_len": self.context}
        return [base] + [
            {"id": name, "root": self.paths[name], "parent": self.name, "max_model_len": None}
            for name in self.rows
        ]

    def _load(self, name, path):
        if name in self.rows:
            return error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(path) / "adapter_config.json").is_file():
            return error(404, f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((Path(path) / "adapter_config.json").read_text())["r"]
        if rank > self.rank:
            return error(500, f"LoRA rank {rank} is greater than max_lora_rank {self.rank}.")
        if len(self.rows) >= self.most:
            return error(400, f"No free lora slots, max_loras is {self.most}")
        row = next(i for i in range(self.population.size) if i not in self.rows.values())
        self.population.load_adapter(f"agent_{row}", path)
        self.rows[name], self.paths[name] = row, path
        self.most_seen = max(self.most_seen, len(self.rows))
        return Answer(body=f"Success: LoRA adapter '{name}' added successfully.")

    def _unload(self, name):
        if name not in self.rows:
            return error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.rows[name], self.paths[name]
        return Answer(body=f"Success: LoRA adapter '{name}' removed successfully.")

    def _complete(self, body):
        name = body["model"]
        if name != self.name and name not in self.rows:
            return error(404, f"The model `{name}` does not exist.", "NotFoundError")
        if len(body["prompt"]) + body["max_tokens"] > self.context:
            return error(400, f"This model's maximum context length is {self.context} tokens")
        job = Job(
            self.rows.get(name), body["prompt"], body["max_tokens"], body["seed"],
            tuple(body["stop"]),
        )  # fmt: skip
        how = {"temperature": body["temperature"], "top_p": body["top_p"]}
        (made,) = generate(self.base, self.population.lora, [job], **how)
        ids = [*made.ids] if made.end is None else [*made.ids, made.end]
        choice = {
            "index": 0,
            "text": self.base.tokenizer.decode(list(made.ids)),
            "finish_reason": "stop" if made.finished else "length",
            "stop_reason": None,
            "token_ids": ids if body["return_token_ids"] else None,
            "prompt_token_ids": body["prompt"],
        }
        return Answer(body={"id": "cmpl", "model": name, "choices": [choice]})

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._reply(None)

            def do_POST(self):
                length = int(self.headers.get("content-length", 0))
                self._reply(json.loads(self.rfile.read(length)))

            def _reply(self, body):
                server.keys.add(self.headers.get("authorization"))
                answer = server.respond(re.sub(r"\?.*", "", self.path), body)
                content = answer.content
                try:
                    self.send_response(answer.status)
                    self.send_header("content-length", str(len(content)))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content[: answer.cut])
                    if answer.cut is not None:
                        self.close_connection = True
                except OSError:  # who asked did not wait
                    self.close_connection = True

            def log_message(self, *arguments):
                pass

        return Handler
