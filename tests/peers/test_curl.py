"""curl over HTTP/1.1, HTTP/2 by prior knowledge, and both over TLS; nginx and the demo's endpoint behind."""

import hashlib
import os
import subprocess

import pytest

WAYS = ["http1", "h2c", "https1", "h2"]
POOLS = ["demo-h1", "demo-h2"]


def curl(node, way, host, path, *options, data=None):
    scheme, port = ("https", node.tls) if way in ("https1", "h2") else ("http", node.plain)
    version = {"http1": "--http1.1", "h2c": "--http2-prior-knowledge", "https1": "--http1.1", "h2": "--http2"}[way]
    command = ["curl", "-sS", "--max-time", "30", version, "--cacert", str(node.certificate)]
    command += ["--resolve", f"{host}:{port}:127.0.0.1", *options, f"{scheme}://{host}:{port}{path}"]
    ran = subprocess.run(command, input=data, capture_output=True, timeout=60)
    assert ran.returncode == 0, (command, ran.stderr.decode())
    return ran.stdout


def status(node, way, host, path, *options, data=None):
    return curl(node, way, host, path, "-o", "/dev/null", "-w", "%{http_code}", *options, data=data).decode()


@pytest.mark.parametrize("way", WAYS)
def test_files_of_nginx_come_whole(node, files, way):
    large = (files / "large").read_bytes()
    assert curl(node, way, "nginx.test", "/large") == large
    assert curl(node, way, "nginx.test", "/large", "-r", "1000-70000") == large[1000:70001]
    assert status(node, way, "nginx.test", "/none") == "404"
    assert status(node, way, "nginx.test", "/moved") == "301"
    head = curl(node, way, "nginx.test", "/large", "-I").decode().lower()
    etag = next(line.split(" ", 1)[1] for line in head.splitlines() if line.startswith("etag:"))
    assert status(node, way, "nginx.test", "/large", "-H", f"if-none-match: {etag}") == "304"
    assert f"content-length: {len(large)}" in head and "\r\ndate: " in head


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool, version", [("nginx-tls1", "1.1"), ("nginx-tls2", "2.0"), ("nginx-auto", "2.0")])
def test_tls_to_nginx(node, files, way, pool, version):
    large = (files / "large").read_bytes()
    assert curl(node, way, f"{pool}.test", "/large") == large
    assert curl(node, way, f"{pool}.test", "/spoken") == f"HTTP/{version} endpoints.internal TLSv1.3".encode()
    # More than nginx serves on one connection: it is left for the next one, over TLS too.
    if way != "h2c":
        assert curl(node, way, f"{pool}.test", "/small?[1-120]") == b"small\n" * 120
    assert status(node, way, f"{pool}.test", "/refuse", "--data-binary", "@-", data=large[:500_000]) == "413"


def test_an_unverified_nginx_gets_nothing(node):
    head = curl(node, "http1", "nginx-public.test", "/small", "-i").decode().lower()
    assert " 503 " in head and "tidelock-reason: unreachable" in head, head


@pytest.mark.parametrize("way", ["http1", "https1", "h2"])
def test_many_requests_on_one_connection(node, way):
    """More than nginx serves on one of its own (keepalive_requests). Without HTTP/2 by prior knowledge: curl 7.88 fails
    at its second request on such a connection, whoever answers (nginx 1.31 alone, too)."""
    urls = "/small?[1-120]"
    assert curl(node, way, "nginx.test", urls) == b"small\n" * 120


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 3 << 20])
def test_uploads_arrive_whole(node, way, pool, size):
    data = os.urandom(size)
    digest = hashlib.sha256(data).hexdigest()
    # With a length (and Expect: 100-continue beyond a megabyte), and without one.
    for options in [("--data-binary", "@-"), ("-X", "POST", "-T", "-")]:
        assert digest in curl(node, way, f"{pool}.test", "/upload", *options, data=data).decode()


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_upload_gets_its_answer(node, way):
    data = os.urandom(1 << 20)
    options = ("--data-binary", "@-", "-H", "expect:")
    assert status(node, way, "nginx.test", "/refuse", *options, data=data) == "413"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", POOLS)
def test_streams_come_whole(node, way, pool):
    body = curl(node, way, f"{pool}.test", "/stream?chunks=20&interval_ms=5&bytes=70000")
    assert len(body) == 20 * 70000
