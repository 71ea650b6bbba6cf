"""The page as a browser gets it: who is answered, and that it follows a run that is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from evolution import cli
from evolution.commands import watch
from evolution.errors import UsageError
from evolution.watch.server import application, open_socket, server
from tests.evolution.synthetic_run import write_run
from tests.evolution.watch.bit_by_bit import Writer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
EVIL = (
    "</div></script><script>document.title = 'owned'</script>"
    "<img src=x onerror=\"document.title = 'owned'\"> <b class=evil>bold</b> \x1b[31m"
)


@contextmanager
def served(folder, each_state=lambda: None):
    """Serve a run from a thread; before each answer on its state, ``each_state`` is called."""
    inner, asked = application(folder), []

    async def shown(scope, receive, send):
        asked.append(scope["path"])
        if scope["path"] == "/state":
            each_state()
        await inner(scope, receive, send)

    with open_socket(0) as listening:
        running = server(shown)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            running.should_exit = True
            thread.join()


def fetch(url, method="GET", **headers):
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_who_is_answered(tmp_path):
    with served(write_run(tmp_path / "run", generations=2)) as (url, _):
        port = url.rpartition(":")[2]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            assert fetch(f"{url}/", Host=host)[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0"):
            for path in ("/", "/state", "/episodes"):
                status, text, _ = fetch(f"{url}{path}", Host=host)
                assert (status, "agent_0" in text) == (400, False)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert fetch(f"{url}/state", method)[0] == 405
        assert fetch(f"{url}/../run.toml")[0] == 404
        for path in ("/", "/state", "/episodes", "/watch.js", "/theme.js", "/page.css"):
            status, _, headers = fetch(url + path)
            assert status == 200
            assert "default-src 'none'; script-src 'self';" in headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Origin" not in headers
        for query in ("generation=x", "generation=-1&number=99", "generation=1&number=" + "9" * 99):
            assert "generation 1" in fetch(f"{url}/episodes?{query}")[1]


def test_texts_of_models_are_only_texts(tmp_path):
    folder = write_run(tmp_path / "run", reply=lambda *_: EVIL, prompt=EVIL, generations=2)
    with served(folder) as (url, _):
        html = fetch(f"{url}/episodes")[1]
    assert "&lt;script&gt;" in html
    assert not re.search(r"<(script|img|b class)", html)
    assert "\x1b" not in html


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none", "is no folder; expected that of a run"),
        (lambda folder: write_run(folder / "a").parent, "is no run but holds 1; name one, such as"),
    ],
)
def test_a_folder_that_cannot_be_a_run_is_refused(tmp_path, make, said):
    with pytest.raises(UsageError, match=said):
        watch.main([str(make(tmp_path))])


def test_a_port_that_is_taken_is_refused(tmp_path):
    with open_socket(0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UsageError, match=f"port: {port} of 127.0.0.1 cannot be used"):
            watch.main([str(tmp_path), "--port", str(port)])


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "evolution.watch.server", raising=False)
    assert cli.main(["watch", str(tmp_path)]) == 2
    said = "watch needs uvicorn, which is not installed; pip install 'populora-env[watch]'"
    assert said in capsys.readouterr().err


def browse(url, profile):
    """Open a page, and let some twenty seconds of the browser's own time pass."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--no-first-run", f"--user-data-dir={profile}", "--window-size=1200,3000",
         "--virtual-time-budget=20000", "--enable-logging=stderr", "--v=0", "--dump-dom", url],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.slow
@needs_browser
def test_a_browser_follows_a_run_that_is_being_written(tmp_path):
    whole = write_run(tmp_path / "whole", generations=4, reply=lambda *_: EVIL, prompt=EVIL)
    writer = Writer(whole, tmp_path / "copy")
    steps = iter([lambda: None, writer.begin, *[writer.go_on] * 3, writer.cut_back,
                  *[writer.go_on] * 2])  # fmt: skip
    with served(writer.copy, lambda: next(steps, lambda: None)()) as (url, asked):
        dom, complaints = browse(f"{url}/", tmp_path / "profile")
    assert complaints == []
    assert writer.generation == 3
    assert (asked.count("/"), asked.count("/plotly.js")) == (1, 1)  # it was never loaded anew
    assert asked.count("/state") >= 8
    assert "No whole generation" not in dom
    assert "4 of 4 generations" in dom
    assert "In generation 3" in dom
    assert "<span>generation 3</span>" in dom
    assert len(re.findall(r'class="chart[^"]*js-plotly-plot"', dom)) == 6
    assert "<title>copy: PopuLoRA run</title>" in dom
    assert "&lt;script&gt;document.title" in dom
    assert '<b class="evil">' not in dom
