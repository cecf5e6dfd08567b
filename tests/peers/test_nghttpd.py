"""nghttpd (nghttp2's own server) as an endpoint, in cleartext and under TLS."""

import os
import subprocess

import pytest

from test_curl import WAYS, curl, status
from test_load import h2load

POOLS = ["nghttpd", "nghttpd-tls"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", POOLS)
def test_files_come_whole(node, files, way, pool):
    large = (files / "large").read_bytes()
    assert curl(node, way, f"{pool}.test", "/large") == large
    assert status(node, way, f"{pool}.test", "/none") == "404"
    assert b"200" in curl(node, way, f"{pool}.test", "/small", "-I").split(b"\r\n")[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [1, 16384, 16385, 1 << 20])
def test_uploads_come_back_whole(node, way, pool, size):
    data = os.urandom(size)
    for options in [("--data-binary", "@-"), ("-X", "POST", "-T", "-")]:
        assert curl(node, way, f"{pool}.test", "/echo", *options, data=data) == data


@pytest.mark.parametrize("pool", POOLS)
def test_trailers_pass(node, pool):
    command = ["nghttp", "-v", "-n", "-H", f":authority: {pool}.test", f"http://127.0.0.1:{node.plain}/small"]
    got = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    assert "x-served: by nghttpd" in got and "RST_STREAM" not in got, got


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("options", [["-c8", "-m16"], ["-c16", "--h1"]])
def test_all_requests_succeed(node, pool, options):
    url = f"http://{pool}.test:{node.plain}/small"
    output, counts = h2load("-n2000", *options, f"--connect-to=127.0.0.1:{node.plain}", url)
    assert counts == [2000, 2000, 2000, 2000, 0], output
