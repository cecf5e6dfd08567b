"""A browser's WebSocket: over the page's own HTTP/2 connection (RFC 8441), and over HTTP/1.1."""

import json
import os
import subprocess

import pytest

from conftest import REPOSITORY


@pytest.mark.parametrize("pool", ["demo-h1", "demo-h2"])
@pytest.mark.parametrize("secure", [True, False])
def test_a_browsers_websocket_works(node, pool, secure):
    opened, by_connect = (f"tidelock_websockets_opened_{how}total" for how in ("", "by_connect_"))
    before = node.metric(opened), node.metric(by_connect)
    scheme, port = ("https", node.tls) if secure else ("http", node.plain)
    env = {**os.environ, "URL": f"{scheme}://{pool}.test:{port}/", "MAP": "MAP *.test 127.0.0.1"}
    ran = subprocess.run(
        ["node", str(REPOSITORY / "tests/browser/websocket.mjs")], env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["heard"] == [6, 100_000] and result["code"] == 3001
    assert result["protocol"] == ("h2" if secure else "http/1.1")
    # The page may have opened one of its own.
    count = node.metric(opened) - before[0]
    assert count >= 1
    assert node.metric(by_connect) - before[1] == (count if secure else 0)
