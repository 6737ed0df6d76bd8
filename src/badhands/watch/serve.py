"""The page while the picture is being made: this machine's browser asks for new steps. Loopback only."""

import json
import socket
import threading
import time
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from badhands.label.guard import Access, Guard
from badhands.watch.frame import Frame
from badhands.watch.page import FILES, data_uri, frame_data, head_data, served_page
from badhands.watch.seen import Seen

HOST = "127.0.0.1"


class Live:
    """Context manager: a server in a thread, fed with `on_frame` and `finish`.

    Args:
        port: 0 takes a free one.

    Raises:
        ValueError: the port is taken; before any model is loaded, if entered first.
    """

    def __init__(self, port: int = 8766, title: str = "") -> None:
        self.port, self.title = port, title
        self._lock = threading.Lock()
        self._run = 0
        self._polled = 0.0
        self._ended = False
        self._last_word = threading.Event()
        self._clear()
        self._state = "loading the model"

    def _clear(self) -> None:
        self._frames: list[dict[str, Any]] = []
        self._head: dict[str, Any] = {}
        self._final: str | None = None
        self._state = "waiting for the first step"

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/"

    def __enter__(self) -> "Live":
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, self.port))
            self._socket.listen(64)  # a browser that comes before the server's loop runs waits for it
        except (OSError, OverflowError) as error:
            self._socket.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"cannot serve at {HOST}:{self.port} ({reason}): choose another with watch.port=..."
            ) from None
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(self.app(), log_level="warning", server_header=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._ended = True
            watched = time.monotonic() - self._polled < 2
        if watched:  # an open page asks three times a second: it shall learn the end before the server goes
            self._last_word.wait(timeout=3)
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=5)
        self._socket.close()

    def wait(self) -> None:
        """Until Ctrl-C."""
        while self._thread.is_alive():
            self._thread.join(0.2)

    def begin(self, title: str) -> None:
        """A new picture: the page starts over."""
        with self._lock:
            self._run += 1
            self.title = title
            self._clear()

    def on_frame(self, seen: Seen, frame: Frame) -> None:
        """Give a step to `watch(..., on_frame=live.on_frame)`; the first batch member is shown."""
        if 0 not in frame.members:
            return
        data, head = frame_data(seen, frame), head_data(seen, self.title)
        with self._lock:
            self._frames.append(data)
            self._head, self._state = head, f"step {frame.step + 1} of {frame.num_steps}"

    def finish(self, seen: Seen) -> None:
        """The picture is done, stopped or interrupted."""
        final = seen.final()
        frames = seen.of()
        stopped = seen.stopped.get((frames[-1].generation, 0)) if frames else None
        with self._lock:
            self._final = None if final is None else data_uri(final)
            self._state = f"stopped after timestep {stopped}" if stopped else "finished" if final else "not finished"

    def app(self) -> ASGIApp:
        """The ASGI application; everything it serves is named here."""
        files = {
            "/": (served_page(), "text/html"),
            "/watch.css": ((FILES / "watch.css").read_bytes(), "text/css"),
            "/watch.js": ((FILES / "watch.js").read_bytes(), "text/javascript"),
        }

        async def file(request: Request) -> Response:
            content, kind = files[request.url.path]
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        async def frames(request: Request) -> Response:
            query = request.query_params
            have = query.get("have", "")
            with self._lock:
                same = query.get("run") == str(self._run) and have.isascii() and have.isdigit()
                new = self._frames[int(have[:9]) :] if same else list(self._frames)
                answer: dict[str, Any] = {
                    "run": self._run, "frames": new, "head": self._head, "state": self._state, "ended": self._ended,
                }  # fmt: skip
                if not (same and query.get("final") == "1"):  # the picture is sent once
                    answer["final"] = self._final
                self._polled = time.monotonic()
            if answer["ended"]:
                self._last_word.set()
            return Response(json.dumps(answer), media_type="application/json", headers={"Cache-Control": "no-store"})

        routes = [*(Route(path, file) for path in files), Route("/frames", frames)]
        guard = Middleware(Guard, access=Access(), max_body=1024)
        return Starlette(routes=routes, middleware=[guard])
