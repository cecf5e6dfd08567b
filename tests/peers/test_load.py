"""Load from nghttp2's own tools: nothing may be lost, cut or reset."""

import re
import subprocess

import pytest


def h2load(*options):
    ran = subprocess.run(["h2load", *options], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    counts = re.search(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed", ran.stdout)
    return ran.stdout, [int(count) for count in counts.groups()]


@pytest.mark.parametrize("pool", ["demo-h1", "demo-h2"])
@pytest.mark.parametrize("options", [["-c8", "-m16"], ["-c20", "-m1"], ["-c16", "--h1"]])
@pytest.mark.parametrize("secure", [False, True])
def test_all_requests_succeed(node, pool, options, secure):
    scheme, port = ("https", node.tls) if secure else ("http", node.plain)
    url = f"{scheme}://{pool}.test:{port}/counter"
    output, counts = h2load("-n2000", *options, f"--connect-to=127.0.0.1:{port}", url)
    assert counts == [2000, 2000, 2000, 2000, 0], output


def test_nghttp_gets_trailers_and_sends_them(node):
    command = ["nghttp", "-v", "-n", "--trailer=x-sum: 42", "-d", __file__]
    command += ["-H", ":authority: demo-h2.test", f"http://127.0.0.1:{node.plain}/upload"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0 and ":status: 200" in ran.stdout and "RST_STREAM" not in ran.stdout, ran.stdout
