"""The server: answers a browser on this machine, and nobody else.

Starlette and uvicorn: both small and well kept, without a build step; Starlette refuses foreign
Host headers, so that no page of another origin can reach the run by a name that it made point here,
and uvicorn serves a socket that was opened before it, so that the port is known at once.
"""

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from evolution.errors import UsageError
from evolution.reporting.page import asset, plotly_script
from evolution.watch.view import TEMPLATES, View

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_SCRIPT, _STYLE, _JSON = "text/javascript", "text/css", "application/json"


def application(path: Path) -> Starlette:
    """Return the application that shows one run.

    Args:
        path: The run's folder, which may be empty still.
    """
    view = View(path)

    def page(request: Request) -> Response:
        del request
        return HTMLResponse(view.page())

    def state(request: Request) -> Response:
        return Response(view.state(request.query_params.get("seen", "")), media_type=_JSON)

    def episodes(request: Request) -> Response:
        asked = (_number(request.query_params.get(name)) for name in ("generation", "number"))
        return HTMLResponse(view.episodes(*asked))

    fixed = {
        "/plotly.js": (plotly_script, _SCRIPT),
        "/theme.js": (lambda: asset("theme.js"), _SCRIPT),
        "/watch.js": (lambda: _own("watch.js"), _SCRIPT),
        "/page.css": (lambda: asset("page.css"), _STYLE),
        "/watch.css": (lambda: _own("watch.css"), _STYLE),
    }
    routes = [
        Route("/", page, methods=["GET"]),
        Route("/state", state, methods=["GET"]),
        Route("/episodes", episodes, methods=["GET"]),
        *(Route(at, _file(*entry), methods=["GET"]) for at, entry in fixed.items()),
    ]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False),
        Middleware(BaseHTTPMiddleware, dispatch=_with_headers),
    ]
    return Starlette(routes=routes, middleware=guards)


def open_socket(port: int) -> socket.socket:
    """Return a socket of this machine alone that browsers can connect to from now on.

    Args:
        port: Which; 0 for any that is free.

    Raises:
        UsageError: If it cannot be had.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise UsageError(
            f"port: {port} of {ADDRESS} cannot be used ({error.strerror}); choose another, or 0 "
            "for any that is free"
        ) from error


def server(shown: ASGIApp) -> uvicorn.Server:
    """Return what serves an application, by ``run(sockets=[...])``, until Ctrl-C."""
    return uvicorn.Server(
        uvicorn.Config(
            shown, log_level="warning", lifespan="off", ws="none", server_header=False,
            timeout_graceful_shutdown=1,
        )
    )  # fmt: skip


async def _with_headers(
    request: Request, answer: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await answer(request)
    response.headers.update(_HEADERS)
    return response


def _file(text: Callable[[], str], kind: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        del request
        return Response(text(), media_type=kind)

    return answer


def _own(name: str) -> str:
    assert TEMPLATES.loader is not None
    return TEMPLATES.loader.get_source(TEMPLATES, name)[0]


def _number(text: str | None) -> int | None:
    """A number from 0 in a query; None for anything else."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None
