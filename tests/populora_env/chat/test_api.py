"""The chat client and the judge behind it, against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("openai")

from populora_env.chat.api import ChatClient
from populora_env.judges import Judge, ask, round_robin
from populora_env.judges.http import HttpJudge
from populora_env.prompts import compare_prompt
from populora_env.records import Attempt, Comparison, Preference, Problem, ReplyStatus

PROBLEM = Problem.create("1 + 1 =", "2")
LONG = 20.0  # seconds after which a request surely hung


def completion(content):
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def text_of(body):
    return body["messages"][-1]["content"]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.headers.append(self.headers)
            count = len(server.bodies)
            server.busy += 1
            server.peak = max(server.peak, server.busy)
        try:
            self.answer(server.mode(body, count), body)
        except OSError:
            pass  # the client has gone
        finally:
            with server.lock:
                server.busy -= 1

    def answer(self, mode, body):
        if isinstance(mode, int):
            said = {"error": {"message": f"no, {self.headers['Authorization']}"}}
            self.send(json.dumps(said), status=mode)
        elif callable(mode):
            mode(self)
        elif mode == "hang":
            self.server.released.wait(LONG * 2)
        elif mode == "trickle head":
            self.trickle(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        elif mode == "trickle":
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
            )
            self.trickle(head)
        elif mode == "drop":
            self.close_connection = True
        elif mode == "malformed":
            self.send('{"choices": [{"mess')
        elif mode == "html":
            self.send("<html></html>", kind="text/html")
        elif mode == "no choices":
            self.send(json.dumps({**completion(""), "choices": []}))
        elif mode == "null choices":
            self.send(json.dumps({**completion(""), "choices": None}))
        elif mode == "a list":
            self.send("[1]")
        elif mode == "null content":
            self.send(json.dumps(completion(None)))
        else:
            assert mode == "ok"
            self.send(json.dumps(completion(self.server.reply(body))))

    def send(self, text, status=200, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.send_header("retry-after-ms", "10")  # tries again soon
        self.end_headers()
        self.wfile.write(text.encode())

    def trickle(self, head):
        self.wfile.write(head)
        deadline = time.monotonic() + LONG * 2
        while time.monotonic() < deadline and not self.server.released.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()

    def log_message(self, *_):
        pass


class FakeServer(ThreadingHTTPServer):
    """Answers ``reply(body)``, unless ``mode(body, count of requests)`` is not ``ok``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.mode = lambda body, count: "ok"
        self.reply = lambda body: f"re: {text_of(body)}"
        self.bodies, self.headers = [], []
        self.busy = self.peak = 0
        self.lock, self.released = threading.Lock(), threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with FakeServer() as running:
        yield running


def client_of(server, **settings):
    return ChatClient("m", server.url, **{"timeout": 5.0, "retries": 0, **settings})


def test_a_request_says_what_it_was_told_to(server):
    settings = {"max_tokens": 7, "temperature": 0.5, "system": "be short"}
    with client_of(server, api_key="secret", **settings) as client:
        assert client.complete("hi", seed=2**40 + 5) == "re: hi"
        assert client.complete("hi", max_tokens=3) == "re: hi"
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}]
    common = {"model": "m", "messages": messages, "temperature": 0.5}
    assert server.bodies == [
        {**common, "max_tokens": 7, "seed": 5},
        {**common, "max_tokens": 3},
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert (client.failures, client.last_error) == (0, None)


def test_the_environment_names_server_and_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with ChatClient("m", retries=0, temperature=None) as client:  # a local server needs no key
        assert client.complete("a") == "re: a"
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    with ChatClient("m", retries=0) as client:
        assert client.complete("b") == "re: b"
    assert server.headers[1]["Authorization"] == "Bearer from-env"
    assert ["temperature" in body for body in server.bodies] == [False, True]


def test_a_batch_keeps_its_order_and_its_concurrency(server):
    def slow_first(body):
        time.sleep(0.3 if text_of(body) == "0" else 0.05)
        return text_of(body)

    server.reply = slow_first
    with client_of(server, concurrency=3) as client:
        prompts = [str(i) for i in range(9)]
        assert client.complete_many(prompts, max_tokens=range(1, 10), seeds=range(9)) == prompts
    sent = {text_of(body): (body["max_tokens"], body["seed"]) for body in server.bodies}
    assert sent == {str(i): (i + 1, i) for i in range(9)}
    assert 1 < server.peak <= 3


@pytest.mark.parametrize("status", [429, 500])
def test_a_passing_failure_is_tried_again(server, status):
    server.mode = lambda body, count: status if count < 3 else "ok"
    with client_of(server, retries=2) as client:
        assert client.complete("a") == "re: a"
    assert (len(server.bodies), client.failures) == (3, 0)


@pytest.mark.parametrize(
    ("mode", "requests", "said"),
    [
        (500, 2, "InternalServerError"),
        (429, 2, "RateLimitError"),
        (400, 1, "BadRequestError"),
        ("drop", 2, "APIConnectionError: Connection error. ("),
        ("malformed", 1, "JSONDecodeError"),
        ("html", 1, "no choices"),
        ("no choices", 1, "no choices"),
        ("null choices", 1, "no choices"),
        ("a list", 1, "no choices"),
        ("null content", 1, "content must be a text, got NoneType (finish_reason 'stop')"),
    ],
)
def test_a_failure_is_none_and_counted_with_its_reason(server, mode, requests, said):
    server.mode = lambda body, count: mode
    with client_of(server, retries=1) as client:
        assert client.complete("a") is None
        assert len(server.bodies) == requests
        assert client.failures == 1
        assert said in client.last_error
        assert "\n" not in client.last_error
        server.mode = lambda body, count: "ok"
        assert client.complete("a") == "re: a"  # and the client goes on


@pytest.mark.parametrize("mode", ["hang", "trickle", "trickle head"])
def test_a_server_that_does_not_end_its_reply_is_left(server, mode):
    server.mode = lambda body, count: mode
    start = time.monotonic()
    with client_of(server, timeout=0.3, retries=1) as client:
        assert client.complete_many(["a", "b"]) == [None, None]
        assert client.failures == 2
    assert time.monotonic() - start < LONG


def test_no_server_at_all(server):
    server.shutdown()
    server.server_close()
    with client_of(server) as client:
        assert client.complete("a") is None
    assert "APIConnectionError" in client.last_error


def test_one_failure_leaves_the_rest_of_a_batch_alone(server):
    server.mode = lambda body, count: 400 if text_of(body) == "bad" else "ok"
    with client_of(server) as client:
        assert client.complete_many(["a", "bad", "c"]) == ["re: a", None, "re: c"]
        assert client.complete_many([]) == []
    assert client.failures == 1


def test_failures_are_counted_across_threads(server):
    server.mode = lambda body, count: 400
    with client_of(server) as client:
        threads = [
            threading.Thread(target=client.complete_many, args=(["a"] * 5,)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert client.failures == 20


def test_lone_surrogates_are_replaced_on_both_ways(server):
    server.reply = lambda body: "x\ud800"
    with client_of(server, system="s\ud800") as client:
        assert client.complete("a\udfffb\0") == "x\ufffd"
    assert [entry["content"] for entry in server.bodies[0]["messages"]] == ["s\ufffd", "a\ufffdb\0"]


def test_an_empty_reply_is_a_reply(server):
    server.reply = lambda body: ""
    with client_of(server) as client:
        assert client.complete("a") == ""
    assert client.failures == 0


def test_the_key_stays_out_of_the_reason(server):
    server.mode = lambda body, count: 401
    with client_of(server, api_key="sk-very-secret") as client:
        assert client.complete("a") is None
    assert "secret" not in client.last_error
    assert "Bearer [key]" in client.last_error


def test_the_limit_has_the_name_that_the_server_wants(server):
    def refuse(handler):
        why = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        handler.send(json.dumps({"error": {"message": why}}), status=400)

    server.mode = lambda body, count: refuse if "max_tokens" in body else "ok"
    with client_of(server, max_tokens=9) as client:
        assert [client.complete("a"), client.complete("b")] == ["re: a", "re: b"]
        assert client.failures == 0
    named = [{name for name in body if "tokens" in name} for body in server.bodies]
    assert named == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]
    server.bodies.clear()
    server.mode = lambda body, count: "ok"
    with client_of(server, max_tokens=9, limit_field="max_new_tokens") as client:
        assert client.complete("a") == "re: a"
    assert server.bodies[0]["max_new_tokens"] == 9
    assert "max_tokens" not in server.bodies[0]


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"model": " "}, ValueError, "model must be"),
        ({"model": 3}, TypeError, "model must be a string, got int"),
        ({"base_url": "localhost:8000"}, ValueError, "base_url must be an address such as"),
        ({"base_url": "http://x:port"}, ValueError, "base_url must be"),
        ({"base_url": "https://api.openai.com/v1"}, ValueError, "set OPENAI_API_KEY"),
        ({"base_url": None}, ValueError, "set OPENAI_API_KEY"),
        ({"api_key": "ab\n"}, ValueError, "api_key must be printable"),
        ({"timeout": 0}, ValueError, "timeout must be finite and > 0, got 0"),
        ({"timeout": float("inf")}, ValueError, "timeout must be finite"),
        ({"timeout": None}, TypeError, "timeout must be a number, got NoneType"),
        ({"retries": -1}, ValueError, "retries must be at least 0, got -1"),
        ({"retries": 1.5}, TypeError, "retries must be an integer, got float"),
        ({"max_tokens": 0}, ValueError, "max_tokens must be at least 1"),
        ({"temperature": -1}, ValueError, "temperature must be finite and >= 0"),
        ({"concurrency": True}, TypeError, "concurrency must be an integer, got bool"),
        ({"system": 3}, TypeError, "system must be a string"),
        ({"top_p": 0}, ValueError, "top_p must be finite and > 0, got 0"),
        ({"top_p": 1.5}, ValueError, "top_p must be at most 1, got 1.5"),
        ({"limit_field": 1}, TypeError, "limit_field must be a string"),
        ({"extra_body": [1]}, TypeError, "extra_body must be a mapping, got list"),
        ({"extra_body": {1: 2}}, TypeError, "extra_body must have texts as keys, got int"),
        ({"extra_body": {"stream": True}}, ValueError, "extra_body must not hold 'stream'"),
        ({"extra_body": {"a": {1}}}, ValueError, "extra_body must be what JSON can hold"),
        ({"base_url": "http://x/v1/chat/completions"}, ValueError, "must end before /chat/compl"),
    ],
)
def test_wrong_settings_are_named(settings, error, said, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(error, match=said) as caught:
        ChatClient(**{"model": "m", "base_url": "http://localhost:1/v1", **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"prompts": "abc"}, TypeError, "prompts must be several texts"),
        ({"prompts": [None]}, TypeError, "prompt must be a string, got NoneType"),
        ({"max_tokens": [1, 2]}, ValueError, "max_tokens must be one for each of 1 prompts, got 2"),
        ({"max_tokens": [0]}, ValueError, "max_tokens must be at least 1"),
        ({"seeds": []}, ValueError, "seeds must be one for each of 1 prompts, got 0"),
        ({"seeds": ["x"]}, TypeError, "seed must be an integer, got str"),
    ],
)
def test_wrong_prompts_are_named_before_anything_is_sent(server, arguments, error, said):
    with client_of(server) as client, pytest.raises(error, match=said):
        client.complete_many(**{"prompts": ["a"], **arguments})
    assert server.bodies == []


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError) as caught:
        ChatClient("m", "http://localhost:1/v1")
    assert str(caught.value).endswith('pip install "populora-env[http]"')


def chat_threads():
    return [thread for thread in threading.enumerate() if thread.name == "populora-chat"]


def test_closing_ends_the_thread_and_further_requests(server):
    before = len(chat_threads())
    client = client_of(server)
    client.complete("a")
    assert len(chat_threads()) == before + 1
    client.close()
    client.close()
    assert len(chat_threads()) == before
    with pytest.raises(RuntimeError, match="make a new ChatClient"):
        client.complete("a")


def test_closing_lets_go_of_those_who_wait(server):
    server.mode = lambda body, count: "hang"
    client = client_of(server, timeout=LONG * 2)
    got = []
    ask_both = lambda: got.append(client.complete_many(["a", "b"]))  # noqa: E731
    waiting = threading.Thread(target=ask_both, daemon=True)
    waiting.start()
    while len(server.bodies) < 2:
        time.sleep(0.01)
    client.close()
    waiting.join(LONG)
    assert got == [[None, None]]
    assert (client.failures, client.last_error) == (2, "the client was closed")


def test_a_forgotten_client_leaves_no_thread(server):
    before = len(chat_threads())
    client = client_of(server)
    client.complete("a")
    assert len(chat_threads()) == before + 1
    del client
    gc.collect()
    deadline = time.monotonic() + LONG
    while len(chat_threads()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(chat_threads()) == before


def test_a_caller_with_an_event_loop_of_its_own(server):
    async def inside():
        with client_of(server) as client:
            return client.complete("a")

    assert asyncio.run(inside()) == "re: a"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_makes_its_own_connection(server):
    with client_of(server) as client:
        assert client.complete("a") == "re: a"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if client.complete("b") == "re: b" else 2
            finally:
                os._exit(code)
        deadline = time.monotonic() + LONG
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        if done[0] == 0:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert done == (child, 0)
        assert client.complete("c") == "re: c"


def judge_of(server, **settings):
    return HttpJudge("m", server.url, **{"timeout": 5.0, "retries": 0, **settings})


def test_a_judge_reads_what_the_server_says(server):
    said = {"1": "A", "2": "I prefer B.", "3": "tie", "4": "A and B", "5": " "}
    server.reply = lambda body: next(said[key] for key in said if f"first {key}" in text_of(body))
    comparisons = [Comparison(PROBLEM, f"first {key}", "second") for key in said]
    with judge_of(server) as judge:
        assert isinstance(judge, Judge)
        verdicts = judge.judge(comparisons)
    assert [(verdict.preference, verdict.status) for verdict in verdicts] == [
        (Preference.A, ReplyStatus.OK),
        (Preference.B, ReplyStatus.LENIENT),
        (Preference.TIE, ReplyStatus.OK),
        (None, ReplyStatus.UNREADABLE),
        (None, ReplyStatus.EMPTY),
    ]
    assert judge.failures == 0
    shown = {text_of(body) for body in server.bodies}
    assert shown == {compare_prompt(comparison) for comparison in comparisons}


def test_a_judge_that_gets_nothing_abstains(server):
    server.mode = lambda body, count: 400 if "bad" in text_of(body) else "ok"
    server.reply = lambda body: "B"
    with judge_of(server) as judge:
        judgement = ask(judge, [Comparison(PROBLEM, "bad", "x"), Comparison(PROBLEM, "y", "x")])
        assert judge.failures == 1
        assert "BadRequestError" in judge.last_error
    bad, good = judgement.verdicts
    assert (bad.preference, bad.status) == (None, ReplyStatus.FAILED)
    assert good.preference is Preference.B


def test_equal_comparisons_are_asked_once(server):
    server.reply = lambda body: "A" if "Attempt A:\n> x" in text_of(body) else "B"
    pairs = [Comparison(PROBLEM, "x", "y"), Comparison(PROBLEM, "y", "x")] * 3
    with judge_of(server, seed=4) as judge:
        verdicts = judge.judge(pairs)
    assert [verdict.preference for verdict in verdicts] == [Preference.A, Preference.B] * 3
    assert [body["seed"] for body in server.bodies] == [4, 4]


def test_a_judge_plays_a_round_robin(server):
    server.reply = lambda body: "A"  # position bias
    attempts = [Attempt(name, PROBLEM.id, name, None, ReplyStatus.OK) for name in "xy"]
    with judge_of(server) as judge:
        evaluations, judgement = round_robin(judge, PROBLEM, attempts)
    assert [(entry.preference, entry.flipped) for entry in evaluations] == [(Preference.TIE, True)]
    assert judgement.failures == 0


def test_a_judge_names_a_limit_that_is_too_small():
    with pytest.raises(ValueError, match="limit must be at least"):
        HttpJudge("m", "http://localhost:1/v1", limit=3)
