"""Which pages and names reach the server."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import requests

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

from fastapi.testclient import TestClient

from monai_ddad.label.origins import OwnOrigin, read_hosts, read_origins
from tests.label.conftest import Server
from tests.label.loaded import loaded

VIEWER = "https://viewer.example"
OWN = ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "10.0.0.7:8000", "LOCALHOST", "label.example:8000")
FOREIGN_HOSTS = ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example:8000", "")
FOREIGN_HOSTS += ("10.0.0.8:8000", "evil@127.0.0.1:8000", "127.0.0.1:x", "[::2]", "*", "a,127.0.0.1", "0.0.0.0:8000")
FOREIGN_ORIGINS = ("http://evil.example", "null", "", "http://127.0.0.1:8001", "https://127.0.0.1:8000", "*")
FOREIGN_ORIGINS += ("http://127.0.0.1:8000.evil.example", "http://viewer.example", f"{VIEWER}:8443", "file://")
FOREIGN_ORIGINS += (f"{VIEWER}.evil.example", "http://evil@127.0.0.1:8000", f"{VIEWER}, http://evil.example")


def ask(method: str = "GET", scope: dict[str, Any] | None = None, **headers: str | list[str]) -> int:
    """Return the status of a request to a server at 10.0.0.7."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [
        (name.replace("_", "-").encode(), text.encode())
        for name, value in headers.items()
        for text in (value if isinstance(value, list) else [value])
    ]
    asked = {"type": "http", "scheme": "http", "method": method, "headers": pairs, "server": ("10.0.0.7", 8000)}
    guard = OwnOrigin(app, hosts=["label.example"], origins=[VIEWER])
    asyncio.run(guard(asked | (scope or {}), None, send))  # type: ignore[arg-type]
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize("host", OWN)
def test_the_servers_own_names_are_answered(host):
    assert ask(host=host) == 200
    assert ask(host=host, origin=f"http://{host}".lower()) == 200  # its own pages


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_other_names_are_not(host):
    assert ask(host=host) == ask("POST", host=host, origin=f"http://{host}") == 421


def test_a_request_must_have_one_name_and_at_most_one_origin():
    assert ask() == 421
    assert ask(host=["127.0.0.1", "evil.example"]) == ask(host=["127.0.0.1", "127.0.0.1"]) == 421
    assert ask(host="127.0.0.1:8000", origin=["http://127.0.0.1:8000", "http://evil.example"]) == 403


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_other_pages_are_refused(method, origin):
    assert ask(method, host="127.0.0.1:8000", origin=origin) == 403


def test_a_configured_page_and_clients_that_are_no_browser_are_answered():
    assert ask("POST", host="127.0.0.1:8000", origin=VIEWER) == 200
    assert ask("POST", host="127.0.0.1:8000") == 200


def test_a_browser_that_names_the_site_alone_is_asked_for_more():
    own = {"host": "127.0.0.1:8000"}
    assert ask(**own, sec_fetch_site="same-origin") == ask(**own, sec_fetch_site="none") == 200
    for site in ("cross-site", "same-site"):  # a picture or a script of another page
        assert ask(**own, sec_fetch_site=site, sec_fetch_mode="no-cors") == 403
        assert ask("POST", **own, sec_fetch_site=site, sec_fetch_mode="navigate") == 403
        assert ask(**own, sec_fetch_site=site, sec_fetch_mode="navigate") == 200  # a link to the viewer


def test_a_socket_of_another_page_is_closed():
    scope = {"type": "websocket", "scheme": "ws"}
    assert ask(scope=scope, host="127.0.0.1:8000", origin="http://evil.example") == 1008
    assert ask(scope=scope, host="127.0.0.1:8000", origin="http://127.0.0.1:8000") == 200


@pytest.mark.parametrize("text", ["*", "https://*.example", "viewer.example", "https://a.example/x", "null", "$1"])
def test_what_is_no_origin_cannot_be_configured(text):
    with pytest.raises(ValueError, match="origins must be"):
        read_origins(text)


@pytest.mark.parametrize("text", ["*", "*.example", "a.example:8000", "http://a.example", "a/b"])
def test_what_is_no_host_cannot_be_configured(text):
    with pytest.raises(ValueError, match="hosts must be"):
        read_hosts(text)


@pytest.fixture(scope="module")
def client(trained, tmp_path_factory) -> Iterator[TestClient]:
    with loaded(tmp_path_factory.mktemp("loaded"), "ddad_brain", trained("ddad_brain"), origins=VIEWER) as client:
        yield client


def test_a_configured_page_may_read_replies_without_credentials(client):
    headers = {"Origin": VIEWER, "Access-Control-Request-Method": "POST"}
    asked = client.options("/train/ddad_brain_training", headers=headers)
    assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == VIEWER
    answer = client.get("/info/", headers={"Origin": VIEWER})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == VIEWER
    assert "access-control-allow-credentials" not in answer.headers
    assert client.get("/info/", headers={"Origin": "http://evil.example"}).status_code == 403


@pytest.fixture(scope="module")
def server(trained, start, tmp_path_factory) -> Server:
    run, studies = trained("ddad_brain"), tmp_path_factory.mktemp("studies")
    shutil.copy(next((run / "phantom/images").glob("*.png")), studies / "a.png")
    return start("ddad_brain", studies, models=str(run / "models"), versions=str(studies.parent / "versions"))


PATHS = ("/info/", "/datastore/image?image=a", "/datastore/", "/ohif/", "/openapi.json", "/nothing", "/")


@pytest.mark.parametrize("path", PATHS)
def test_a_running_server_gives_nothing_to_another_page_or_under_another_name(server, path):
    page = {"Origin": "http://evil.example"}
    for headers, status in ((page, 403), ({"Host": "evil.example"}, 421), ({"Host": "evil.example", **page}, 421)):
        answer = server.request("GET", path, headers=headers)
        assert answer.status_code == status, answer.text
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
def test_another_page_cannot_start_a_training_or_send_a_file(server, kind):
    headers = {"Origin": "http://evil.example", "Content-Type": kind}
    for method, path in (
        ("POST", "/train/ddad_brain_training"),
        ("POST", "/infer/ddad_brain?image=a"),
        ("DELETE", "/train/"),
    ):
        assert server.request(method, path, data="{}", headers=headers).status_code == 403
    preflight = headers | {"Access-Control-Request-Method": "PUT"}
    assert server.request("OPTIONS", "/datastore/image", headers=preflight).status_code == 403
    assert server.request("GET", "/train/").status_code == 404  # none was started


def test_its_own_page_and_other_clients_go_on_working(server):
    port = server.url.rpartition(":")[2]
    for name in (server.url, f"http://localhost:{port}"):
        answer = requests.get(f"{name}/info/", headers={"Origin": name}, timeout=60)
        assert answer.ok and "access-control-allow-origin" not in answer.headers
    assert server.request("GET", "/ohif/").ok and server.request("GET", "/datastore/image?image=a").ok
    assert server.infer("a").ok
