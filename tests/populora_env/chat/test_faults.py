"""What servers send that is no answer, or more than one: said, counted, bounded."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import time
import zlib
from email.utils import formatdate

import pytest

pytest.importorskip("openai")

from populora_env.chat.api import ChatClient
from populora_env.chat.connection import MAX_BYTES
from populora_env.chat.replies import said
from populora_env.judges.http import HttpJudge
from tests.conftest import forget_memory_peak, memory_peak
from tests.populora_env.chat.test_api import (
    LONG,
    FakeServer,
    client_of,
    completion,
    server,
    text_of,
)

__all__ = ["server"]  # the fixture


def shaped(content, finish="stop", **more):
    reply = completion(content)
    reply["choices"][0]["finish_reason"] = finish
    reply["choices"][0]["message"].update(more)
    return reply


def answering(reply, status=200, **headers):
    """Return a mode that sends a reply as JSON."""

    def mode(handler):
        data = json.dumps(reply).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return mode


def asked(server, mode, **settings):
    """Ask once; return the reply, and why there is none."""
    server.mode = lambda body, count: mode
    with client_of(server, **settings) as client:
        reply = client.complete("a")
        assert client.failures == (reply is None)
        return reply, client.last_error


def text(value):
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (shaped([text("The answer"), text(" is 4.")]), "The answer is 4."),
        (shaped(["4"]), "4"),
        (shaped([{"type": "thinking", "thinking": "hm"}, text("4")]), "4"),
        (shaped([{"type": "reasoning", "text": "3?"}, text("4")]), "4"),
        (shaped([{"type": "output_text", "text": "4", "annotations": []}]), "4"),
        (shaped("cut off he", "length"), "cut off he"),
        (shaped("", "stop"), ""),
        (shaped("", None), ""),
        ({**shaped("4"), "error": None}, "4"),
    ],
)
def test_an_answer_in_any_shape_is_one(server, reply, expected):
    assert asked(server, answering(reply)) == (expected, None)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (shaped("", "length", reasoning_content="hm"), "empty (finish_reason 'length'): the limit"),
        (shaped(" \n", "length"), "empty (finish_reason 'length')"),
        (shaped(None, "length"), "got NoneType (finish_reason 'length'): the limit"),
        (shaped([], "length"), "got list (finish_reason 'length')"),
        (shaped([{"type": "thinking", "thinking": "hm"}], "length"), "content must be a text"),
        (shaped("", "content_filter"), "empty (finish_reason 'content_filter')"),
        (shaped("", "tool_calls"), "empty (finish_reason 'tool_calls')"),
        (shaped(None, refusal="I cannot."), "the model refused: I cannot."),
        (shaped({"text": "4"}), "content must be a text, got dict"),
        ({"error": {"message": "no credit", "code": 402}}, "is an error: no credit"),
        ({"error": "model is loading"}, "is an error: model is loading"),
        ({**shaped("4"), "error": {"message": "cut"}}, "is an error: cut"),
        ({"choices": [{"error": {"message": "upstream gone"}}]}, "is an error: upstream gone"),
        ({"object": "error", "message": "too long"}, "has no choices: too long"),
        ({"choices": []}, "has no choices"),
        ({"choices": [None]}, "has no choices"),
        ({"choices": [{"message": "4"}]}, "content must be a text, got NoneType"),
        (7, "has no choices: 7"),
        (shaped("", ["length"]), "empty (finish_reason ['length'])"),
        (shaped([{"type": ["text"], "text": "4"}]), "content must be a text, got list"),
    ],
)
def test_what_is_no_answer_is_a_failure_with_its_reason(server, reply, said):
    got, reason = asked(server, answering(reply))
    assert got is None
    assert said in reason


@pytest.mark.parametrize(
    ("status", "reply", "said"),
    [
        (
            422,
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "(seed=None leaves it out): body.seed: Extra inputs are not permitted",
        ),
        (
            422,
            {"message": {"detail": [{"loc": ["seed"], "msg": "not allowed"}]}},
            "seed: not allowed",
        ),
        (400, {"error": {"message": "temperature is fixed"}}, "(temperature=None leaves it out)"),
        (400, {"object": "error", "message": "context is 4096"}, ": context is 4096"),
        (400, [{"error": {"code": 400, "message": "bad"}}], ": bad"),
        (400, {"error": "Input validation error", "error_type": "x"}, ": Input validation error"),
        (400, {"errors": [{"message": "one"}, {"message": "two"}]}, ": one; two"),
        (400, {"strange": 1}, '{"strange": 1}'),
        (400, None, ": null"),
        (401, {"error": {"message": "no"}}, "(api_key is wrong or missing): no"),
        (400, {"error": {"message": "é", "code": [1]}}, ": é"),
    ],
)
def test_a_status_keeps_what_the_server_says(server, status, reply, said):
    got, reason = asked(server, answering(reply, status))
    assert got is None
    assert f"status {status} at {server.url}/chat/completions" in reason
    assert said in reason


@pytest.mark.parametrize("wrap", ["%s", '{"error": %s}', '{"detail": [{"loc": %s, "msg": "no"}]}'])
def test_no_depth_of_an_error_is_a_fault_of_ours(wrap):
    for depth in range(900, 1000):
        assert said((wrap % ("[" * depth + "1" + "]" * depth)).encode())


def nested(handler):
    data = b"[" * 983 + b"1" + b"]" * 983
    handler.send_response(400)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def test_a_deep_error_fails_its_own_request_only(server):
    server.mode = lambda body, count: nested if text_of(body) == "b" else answering(shaped("4"))
    with client_of(server) as client:
        assert client.complete_many(["a", "b", "c"]) == ["4", None, "4"]
        assert client.failures == 1


def test_headers_that_are_no_ascii_change_nothing(server):
    assert asked(server, answering(shaped("4"), x_note="caf\xe9")) == ("4", None)
    got, reason = asked(server, answering({"error": "busy"}, 503, x_note="caf\xe9"), retries=0)
    assert got is None
    assert "status 503" in reason
    assert "busy" in reason


@pytest.mark.parametrize("before", range(4060, 4100, 3))
def test_a_key_is_out_of_what_is_shown_wherever_it_is_cut(server, before):
    key = "sk-" + "7" * 45
    reply = {"strange": "x" * 100 + key + "y" * before + key}
    _, reason = asked(server, answering(reply, 400), api_key=key)
    assert "777" not in reason
    assert "[key]" in reason


def test_a_wrong_address_is_named_with_its_fix(server):
    server.mode = lambda body, count: answering({"detail": "Not Found"}, 404)
    root = server.url.removesuffix("/v1")
    with ChatClient("m", root.replace("//", "//user:pass@"), retries=0) as client:
        assert client.complete("a") is None
    assert f"status 404 at {root}/chat/completions" in client.last_error
    assert f"(base_url {root} has no /v1 at its end" in client.last_error
    assert "pass" not in client.last_error
    _, reason = asked(server, answering({"message": "The model `m` does not exist"}, 404))
    assert "no /v1" not in reason
    assert "The model `m` does not exist" in reason


@pytest.mark.parametrize("asks", ["50", "1e9", "a date"])
def test_a_long_wait_is_not_waited_for_but_said(server, asks):
    if asks == "a date":
        asks = formatdate(time.time() + 10**6, usegmt=True)
    start = time.monotonic()
    mode = answering({"error": {"message": "slow down"}}, 429, Retry_After=asks)
    got, reason = asked(server, mode, timeout=5.0, retries=2)
    assert got is None
    assert time.monotonic() - start < 5
    assert len(server.bodies) == 1
    assert "not waited for, with a timeout of 5 s: RateLimitError: status 429" in reason
    assert "asks to wait" in reason
    assert reason.endswith("slow down")


def test_a_short_wait_is_waited_for(server):
    busy = answering({"error": "busy"}, 429, Retry_After="0.4")
    server.mode = lambda body, count: busy if count == 1 else "ok"
    start = time.monotonic()
    with client_of(server, retries=1) as client:
        assert client.complete("a") == "re: a"
    assert 0.4 <= time.monotonic() - start < LONG
    server.bodies.clear()
    passing = answering({"error": {"code": 429, "message": "busy"}})  # with status 200
    server.mode = lambda body, count: passing if count == 1 else "ok"
    with client_of(server, retries=1) as client:
        assert client.complete("a") == "re: a"


@pytest.mark.parametrize("asks", ["nan", "-5", "soon", "Thu, 99 Foo", ""])
def test_a_wait_that_says_nothing_is_ignored(server, asks):
    _, reason = asked(server, answering({"error": "busy"}, 429, Retry_After=asks))
    assert reason.startswith("RateLimitError: status 429")


def packed(data, encoding):
    """Return a mode that sends a body in some content encoding."""

    def mode(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Encoding", encoding)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return mode


GOOD = json.dumps(completion("4" * 300_000)).encode()
RAW = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (gzip.compress(GOOD), "gzip"),
        (gzip.compress(GOOD), "x-gzip"),
        (gzip.compress(GOOD[:100]) + gzip.compress(GOOD[100:]), "gzip"),
        (gzip.compress(GOOD) + b"\0\0", "gzip"),
        (zlib.compress(GOOD), "deflate"),
        (RAW.compress(GOOD) + RAW.flush(), "deflate"),
        (GOOD, "identity"),
    ],
)
def test_compressed_replies_are_read(server, data, encoding):
    assert asked(server, packed(data, encoding)) == ("4" * 300_000, None)


@pytest.mark.parametrize(
    ("data", "encoding", "said"),
    [
        (gzip.compress(GOOD)[:-9], "gzip", "breaks off"),
        (GOOD, "gzip", "cannot be decompressed"),
        (GOOD, "br", "is compressed as 'br'"),
        (gzip.compress(gzip.compress(GOOD)), "gzip, gzip", "is compressed as"),
    ],
)
def test_what_cannot_be_decompressed_is_said(server, data, encoding, said):
    got, reason = asked(server, packed(data, encoding))
    assert got is None
    assert said in reason


@pytest.mark.parametrize("status", [200, 500])
def test_a_bomb_of_gzip_is_cut(server, status):
    inner = zlib.compressobj(wbits=31)
    bomb = b"".join(inner.compress(bytes(2**20)) for _ in range(128)) + inner.flush()
    assert len(bomb) < 200_000

    def mode(handler):
        handler.send_response(status)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(bomb)))
        handler.end_headers()
        handler.wfile.write(bomb)

    before = forget_memory_peak()
    got, reason = asked(server, mode)
    assert got is None
    assert f"of status {status}, is longer than {MAX_BYTES >> 20} MiB" in reason
    assert memory_peak() - before < 64 << 20


def test_an_endless_stream_is_cut(server):
    sent = []

    def mode(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while not handler.server.released.is_set():
            handler.wfile.write(b"[" * 2**16)
            sent.append(2**16)

    start = time.monotonic()
    got, reason = asked(server, mode)
    assert got is None
    assert "is longer than 8 MiB" in reason
    assert sum(sent) < 4 * MAX_BYTES  # what socket buffers take comes on top
    assert time.monotonic() - start < LONG


def redirecting(to, status=307):
    return answering({}, status, Location=to)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_server_gets_no_prompt(server, status):
    with FakeServer() as other:
        for to in (f"{other.url}/chat/completions", f"//localhost:{other.server_port}/v1"):
            got, reason = asked(server, redirecting(to, status))
            assert got is None
            assert f":{other.server_port}, which would send the prompts there" in reason
        assert other.bodies == []


def test_a_redirect_within_the_server_is_followed(server):
    there = redirecting("/v2/chat/completions")
    server.mode = lambda body, count: there if count == 1 else "ok"
    with client_of(server) as client:
        assert client.complete("a") == "re: a"
    got, reason = asked(server, there)
    assert got is None
    assert "redirects more than 5 times" in reason


def test_further_options_are_sent(server):
    extra = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}, "temperature": 0.9}
    with client_of(server, top_p=0.5, extra_body=extra) as client:
        assert client.complete_many(["a"], seeds=[None]) == ["re: a"]
    (body,) = server.bodies
    assert {**extra, "top_p": 0.5}.items() <= body.items()
    assert "seed" not in body


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_asks_the_same_server(server, copied):
    server.mode = lambda body, count: 400 if text_of(body) == "bad" else "ok"
    with client_of(server, api_key="secret", temperature=0.5) as client:
        client.complete("bad")
        with copied(client) as twin:
            client.close()
            assert twin.complete("b", seed=3) == "re: b"
            assert twin.failures == 1
    assert server.bodies[-1]["temperature"] == 0.5
    assert server.headers[-1]["Authorization"] == "Bearer secret"
    with pytest.raises(RuntimeError, match="make a new ChatClient"):
        copied(client).complete("a")
    judge = HttpJudge("m", server.url, retries=0, seed=1)
    assert copied(judge).judge([]) == []
