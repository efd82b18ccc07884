"""Which requests a server answers: those that name it, and of web pages its own and the configured ones."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OwnOrigin", "read_hosts", "read_origins"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PORTS = {"http": 80, "https": 443}


def read_origins(text: str) -> list[str]:
    """Read the origins that pages may have, with commas between them.

    Raises:
        ValueError: one is none; a wildcard is none either.

    Example:
        >>> read_origins("https://viewer.example, http://10.0.0.5:3000")
        ['https://viewer.example', 'http://10.0.0.5:3000']
    """
    found = [part.strip().rstrip("/").lower() for part in text.split(",") if part.strip()]
    for origin in found:
        if _address(origin) is None or urlsplit(origin).path:
            raise ValueError(f"origins must be such as https://viewer.example, got {origin!r}.")
    return found


def read_hosts(text: str) -> list[str]:
    """Read the names under which the server is reached, with commas between them.

    Raises:
        ValueError: one is none, such as one with a port or a wildcard.

    Example:
        >>> read_hosts("label.example, 10.0.0.5")
        ['label.example', '10.0.0.5']
    """
    found = [part.strip().strip("[]").lower() for part in text.split(",") if part.strip()]
    for host in found:
        if "*" in host or _address(f"http://[{host}]" if ":" in host else f"http://{host}") != ("http", host, 80):
            raise ValueError(f"hosts must be names or addresses without a port, got {host!r}.")
    return found


def _address(origin: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an origin; None where it is none."""
    try:
        parts = urlsplit(origin)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        return None
    if not parts.hostname or parts.scheme not in PORTS or "*" in parts.hostname or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, port


class OwnOrigin:
    """Refuse requests of foreign web pages, and those that call the server by a name that is not its own.

    A browser names the page that a request comes from, and the host that it believes to speak to: a page that has
    made its own name point to this machine (DNS rebinding) is known by the latter. Clients that are no browsers name
    no page.

    Args:
        app: what answers.
        hosts: names of the server beside those of the loopback and the address that a connection has come in at.
        origins: of pages that may call it.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> None:
        self.app = app
        self.hosts = hosts
        self.origins = [_address(origin) for origin in origins]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it: 421 names the wrong host, 403 the wrong page."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        if refusal is None or scope["type"] != "http":
            await (self.app if refusal is None else _close)(scope, receive, _sealed(send))
            return
        status, detail = refusal
        await JSONResponse({"detail": detail}, status_code=status)(scope, receive, send)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        asked = _address(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None
        server = (scope.get("server") or ("",))[0] or ""
        if asked is None or asked[1] not in (*LOOPBACK, *self.hosts, server.lower().removeprefix("::ffff:")):
            return 421, "Host: is none of the server's names; --conf hosts names others."
        if origins:
            origin = _address(origins[0]) if len(origins) == 1 else None
            if origin is None or (origin != asked and origin not in self.origins):
                return 403, "Origin: pages of other sites may not call the server; --conf origins names some."
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
            headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"  # a link to it may be followed
        ):
            return 403, "Sec-Fetch-Site: pages of other sites may not load what the server holds."
        return None


def _sealed(send: Send) -> Send:
    """Let no browser take a reply for something else than its type says, or show it inside another site's page."""

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-content-type-options", b"nosniff"),
                (b"cross-origin-resource-policy", b"same-origin"),
                (b"content-security-policy", b"frame-ancestors 'self'"),
            ]
        await send(message)

    return sealed


async def _close(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008})
