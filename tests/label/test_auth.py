"""Authentication: no token, a wrong one, the right one, and one without the role."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make test-label builds its environment")

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.label.conftest import Server

ROLES = ["monailabel-admin", "monailabel-reviewer", "monailabel-annotator", "monailabel-user"]


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def realm(key):
    """Address of an identity provider that knows the public key."""
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = json.dumps({"public_key": base64.b64encode(public).decode()}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    provider = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=provider.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{provider.server_address[1]}/realm"
    provider.shutdown()


@pytest.fixture(scope="module")
def server(trained, start, realm, tmp_path_factory) -> Server:
    environment = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": realm}
    run = trained("ddad_brain")
    return start("ddad_brain", tmp_path_factory.mktemp("studies"), environment, models=str(run / "models"))


def token(key: rsa.RSAPrivateKey | str, roles: list[str], algorithm: str = "RS256", **claims: object) -> dict[str, str]:
    content = {"preferred_username": "a", "realm_access": {"roles": roles}, "exp": time.time() + 600} | claims
    return {"Authorization": f"Bearer {jwt.encode(content, key, algorithm)}"}


def test_the_right_token_is_let_in_by_its_roles(server, key):
    assert server.request("GET", "/info/", headers=token(key, ROLES)).status_code == 200
    user = token(key, ["monailabel-user"])
    assert server.request("GET", "/info/", headers=user).status_code == 200
    assert server.request("POST", "/train/ddad_brain_training", headers=user).status_code == 403


def test_no_token_and_wrong_ones_are_kept_out(server, key):
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    wrong = [
        {},
        {"Authorization": "Bearer nonsense"},
        token(other, ROLES),
        token(key, ROLES, exp=time.time() - 60),
        token("x" * 32, ROLES, "HS256"),
        {"Authorization": f"Bearer {jwt.encode({'realm_access': {'roles': ROLES}}, None, 'none')}"},
    ]
    for headers in wrong:
        for path in ("/info/", "/datastore/", "/train/", "/activelearning/anomaly", "/infer/ddad_brain"):
            method = "POST" if path.startswith(("/active", "/infer")) else "GET"
            assert server.request(method, path, headers=headers).status_code == 401
