"""Who may talk to the server: this machine's browser, or the holder of a token. ASGI middleware.

A page on another site must not reach a server on this machine: requests name their Host (against DNS rebinding) and
their Origin (against cross-site posts), and bodies end at a limit.
"""

import hmac
import ipaddress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "badhands_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Names the server answers to, and the token it asks for."""

    hosts: tuple[str, ...] = LOOPBACK
    """Host names without port."""
    token: str | None = None
    """None only on the loopback interface."""
    addresses: bool = False
    """Answer to every IP address written out: the machine's own, or one that a router forwards. No other site can make
    a browser send such a Host, since only names can be bound anew."""

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("name at least one host that the server answers to")
        if self.token is None and (self.addresses or not set(self.hosts) <= set(LOOPBACK)):
            raise ValueError("beyond this machine the labelling server needs a token: set token=...")
        if self.token is not None and len(self.token) < 16:
            raise ValueError("a token has at least 16 characters: leave it out and one is made for you")


class Guard:
    """Refuses foreign hosts (421), foreign origins (403), missing tokens (401) and long bodies (413)."""

    def __init__(self, app: ASGIApp, access: Access, max_body: int):
        self.app, self.access, self.max_body = app, access, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            refusal.headers.update(_HEADERS)
            await refusal(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _knows(self, name: str) -> bool:
        return name in self.access.hosts or (self.access.addresses and _is_address(name))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._knows(_name_of(host)) or len(headers.getlist("host")) != 1:
            return _error(421, "this server does not answer to that host name; add it with hosts=[NAME]")
        origins = headers.getlist("origin")
        allowed = (f"http://{host}", f"https://{host}")
        if any(origin not in allowed for origin in origins):
            return _error(403, "requests from other sites are refused")
        entering = scope["method"] == "GET" and scope["path"] == "/"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") and not entering:
            return _error(403, "requests from other sites are refused")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return _error(400, "content-length is no number")
        if len(length) > 12 or int(length) > self.max_body:
            return _error(413, f"the body is longer than {self.max_body} bytes")
        return self._token_refusal(scope, headers, entering)

    def _token_refusal(self, scope: Scope, headers: Headers, entering: bool) -> Response | None:
        """Opening the page with ?token=... leaves a cookie and takes the token out of the address."""
        token = self.access.token
        if token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        offered = next((value for name, value in query if name == "token"), None)
        if entering and offered is not None and _same(offered, token):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            response = RedirectResponse("/" + (f"?{rest}" if rest else ""), status_code=303)
            response.set_cookie(_cookie_name(scope), token, httponly=True, samesite="strict", max_age=30 * 86400)
            return response
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if _same(bearer, token) or _same(_cookie(headers.get("cookie", ""), _cookie_name(scope)), token):
            return None
        return _error(401, "open the address with ?token=... as the server printed it")


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None once it is longer than `limit`, whatever its header said."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return body


def _name_of(host: str) -> str:
    """`[::1]:8000` and `localhost:8000` without port and brackets."""
    if host.startswith("["):
        return host[1:].split("]")[0]
    name, _, port = host.partition(":")
    return name.lower() if not port or port.isdigit() else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie_name(scope: Scope) -> str:
    """With the server's port in it: browsers send a cookie to all ports of a machine."""
    return f"{COOKIE}_{(scope.get('server') or ('', 0))[1]}"


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _same(offered: str, token: str) -> bool:
    return hmac.compare_digest(offered.encode("utf-8", "replace"), token.encode())


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)
