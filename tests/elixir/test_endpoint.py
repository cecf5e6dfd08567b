"""Proves the endpoint that other tests rely on, without the balancer: above all that its log tells an upload that was
cut from one that ended."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from h2.errors import ErrorCodes

from h2_client import H2Client

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(
    not shutil.which("elixir") or not (HERE.parent / ".cache/cowboy").is_dir(),
    reason="Elixir or Cowboy is missing (tests/elixir/setup.sh)",
)


@pytest.fixture(scope="module")
def port():
    process = subprocess.Popen(
        [HERE / "run.sh"], env={**os.environ, "PORT": "0", "NAME": "app-1"}, stdout=subprocess.PIPE, text=True
    )
    ready = process.stdout.readline().split()
    assert ready[:2] == ["READY", "app-1"]
    yield int(ready[2])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 0


@pytest.fixture
def client(port):
    client = H2Client(port)
    yield client
    client.close()


def fetch(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return json.load(response)


def log(port, tag, until=lambda entries: all(e["ended"] != "open" for e in entries), count=1):
    """The log of one test, once it has `count` entries and none is open."""
    deadline = time.monotonic() + 10
    while True:
        entries = fetch(port, f"/log?tag={tag}")
        if len(entries) >= count and until(entries):
            return entries
        assert time.monotonic() < deadline, entries
        time.sleep(0.02)


def run(*command):
    return subprocess.run(command, text=True, capture_output=True, timeout=60)


def curl(port, path, *options):
    ran = run("curl", "--silent", "--show-error", "--max-time", "20", *options, f"http://127.0.0.1:{port}{path}")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# Pages and counters.


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_counts_per_session(port, version):
    counts = [json.loads(curl(port, f"/counter?sid=c{version}", version))["count"] for _ in range(3)]
    assert counts == [1, 2, 3]
    assert json.loads(curl(port, f"/counter?sid=d{version}", version))["count"] == 1


@pytest.mark.parametrize("header", ["tidelock: s1", "cookie: sid=s1", "cookie: session=s1", "cookie: a=b; tidelock=s1"])
def test_the_session_comes_from_header_or_cookie(port, header):
    assert json.loads(curl(port, "/counter", "--header", header))["session"] == "s1"


def test_a_new_session_gets_a_cookie(port):
    head = curl(port, "/counter", "--include")
    made = re.search(r"set-cookie: sid=([\w-]+)", head)[1]
    assert json.loads(curl(port, "/counter", "--cookie", f"sid={made}")) == {
        "endpoint": "app-1", "session": made, "count": 2,
    }  # fmt: skip


def test_the_page_names_the_endpoint(port):
    page = curl(port, "/?sid=page", "--http2-prior-knowledge")
    assert '<output id="endpoint">app-1</output>' in page
    assert '<output id="count">1</output>' in page


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_streams_slowly_and_by_events(port, version):
    assert curl(port, "/slow?ms=5&chunks=3", version) == "app-1 1 of 3\napp-1 2 of 3\napp-1 3 of 3\n"
    events = curl(port, "/sse?ms=5&n=2", version)
    assert re.findall(r"^data: (.*)$", events, re.M) == ['{"endpoint":"app-1","tick":1}', '{"endpoint":"app-1","tick":2}']


def test_nghttp_multiplexes(port):
    ran = run("nghttp", "--no-dep", "-m", "20", f"http://127.0.0.1:{port}/counter?sid=nghttp")
    assert ran.returncode == 0, ran.stderr
    counts = sorted(int(n) for n in re.findall(r'"count":(\d+)', ran.stdout))
    assert counts == list(range(1, 21))


def test_h2load_loses_nothing(port):
    ran = run("h2load", "-n", "2000", "-c", "4", "-m", "25", f"http://127.0.0.1:{port}/counter?sid=h2load")
    assert "2000 succeeded, 0 failed, 0 errored" in ran.stdout, ran.stdout
    assert fetch(port, "/counter?sid=h2load")["count"] == 2001


# Uploads: how each ended.


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_a_complete_upload_is_complete(port, tmp_path, version):
    body = os.urandom(300_000)
    (tmp_path / "body").write_bytes(body)
    tag = f"complete{version}"
    answer = json.loads(curl(port, f"/upload?tag={tag}", version, "--data-binary", f"@{tmp_path}/body"))
    assert answer == {
        "endpoint": "app-1", "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(), "complete": True,
    }  # fmt: skip
    (entry,) = log(port, tag)
    assert (entry["ended"], entry["bytes"], entry["end_stream"]) == ("complete", 300_000, True)


@pytest.mark.parametrize("declared", [True, False], ids=["with content-length", "without content-length"])
def test_an_aborted_upload_is_a_reset_and_never_an_end(port, client, declared):
    tag = f"aborted-{declared}"
    length = [("content-length", "100000")] if declared else []
    stream = client.start("POST", f"/upload?tag={tag}", length)
    client.send(stream, b"x" * 40_000)
    log(port, tag, until=lambda entries: entries[0]["bytes"] == 40_000)
    client.reset(stream, ErrorCodes.CANCEL)
    (entry,) = log(port, tag)
    assert (entry["ended"], entry["code"]) == ("reset", "cancel")
    assert (entry["bytes"], entry["end_stream"]) == (40_000, False)
    # The connection lives on.
    assert client.get("/counter?sid=after-abort")[0] == 200


def test_a_reset_says_with_which_code(port, client):
    stream = client.start("POST", "/upload?tag=internal", [("content-length", "10")])
    client.send(stream, b"x")
    client.reset(stream, ErrorCodes.INTERNAL_ERROR)
    (entry,) = log(port, "internal")
    assert (entry["ended"], entry["code"]) == ("reset", "internal_error")


def test_an_early_end_stream_is_not_taken_for_a_reset(port, client):
    # What a bad proxy makes of an aborted upload. h2 itself would refuse to send it.
    client.connection.config.validate_outbound_headers = False
    stream = client.start("POST", "/upload?tag=early-end", [("content-length", "1000")])
    client.send(stream, b"x" * 500)
    client.end(stream)
    (entry,) = log(port, "early-end")
    assert entry["ended"] == "refused"
    assert entry["code"] == "protocol_error"
    assert "content-length" in entry["text"]


def test_an_early_end_stream_without_length_shows_in_the_bytes(port, client):
    stream = client.start("POST", "/upload?tag=undeclared")
    client.send(stream, b"x" * 500, end_stream=True)
    assert client.response(stream)[0] == 200
    (entry,) = log(port, "undeclared")
    assert (entry["ended"], entry["bytes"], entry["content_length"]) == ("complete", 500, None)


def test_a_lost_connection_is_closed(port):
    client = H2Client(port)
    stream = client.start("POST", "/upload?tag=lost", [("content-length", "1000")])
    client.send(stream, b"x" * 500)
    log(port, "lost", until=lambda entries: entries[0]["bytes"] == 500)
    client.close()
    (entry,) = log(port, "lost")
    assert (entry["ended"], entry["end_stream"]) == ("closed", False)


def test_an_http1_abort_is_closed(port):
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(b"POST /upload?tag=h1-abort HTTP/1.1\r\nhost: tests\r\ncontent-length: 1000\r\n\r\nshort")
        log(port, "h1-abort", until=lambda entries: entries[0]["bytes"] == 5)
    (entry,) = log(port, "h1-abort")
    assert (entry["ended"], entry["end_stream"], entry["version"]) == ("closed", False, "HTTP/1.1")


@pytest.mark.parametrize(("path", "status"), [("/upload-ignored", 429), ("/half", 200)])
def test_answers_early(port, client, path, status):
    tag = f"early{path[1:]}"
    stream = client.start("POST", f"{path}?tag={tag}", [("content-length", "200000")])
    client.send(stream, b"x" * 200_000 if path == "/half" else b"x" * 40_000)
    answered, _, body, _ = client.response(stream)
    assert answered == status
    assert json.loads(body)["complete"] is False
    (entry,) = log(port, tag)
    assert entry["ended"] == "answered-early"


# WebSockets.


def websocket(port, path):
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    key = base64.b64encode(os.urandom(16)).decode()
    plain.sendall(
        f"GET {path} HTTP/1.1\r\nhost: tests\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode()
    )
    reader = plain.makefile("rb")
    assert b" 101 " in reader.readline()
    while reader.readline() != b"\r\n":
        pass
    return plain, reader


def send_frame(plain, opcode, payload):
    mask = os.urandom(4)
    masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    plain.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)


def read_frame(reader):
    first, length = reader.read(2)
    if length == 126:
        (length,) = struct.unpack("!H", reader.read(2))
    return first & 0x0F, reader.read(length)


def test_websocket_greets_echoes_and_logs_the_close_code(port):
    plain, reader = websocket(port, "/ws?ticks=off&sid=w&tag=ws")
    opcode, hello = read_frame(reader)
    assert (opcode, json.loads(hello)) == (1, {"hello": "app-1", "session": "w"})
    for opcode, payload in [(1, "grüße".encode()), (2, b"\x00\xff"), (1, b"")]:
        send_frame(plain, opcode, payload)
        assert read_frame(reader) == (opcode, payload)
    send_frame(plain, 8, struct.pack("!H", 1001))
    assert read_frame(reader)[0] == 8
    plain.close()
    (entry,) = log(port, "ws")
    assert (entry["kind"], entry["ended"], entry["code"]) == ("websocket", "closed-by-peer", "1001")


def test_cowboy_takes_close_code_1012_for_a_bad_frame(port):
    # So a balancer that closes its client with 1012 must not say 1012 to this endpoint.
    plain, reader = websocket(port, "/ws?ticks=off&tag=ws-1012")
    read_frame(reader)
    send_frame(plain, 8, struct.pack("!H", 1012))
    assert read_frame(reader) == (8, struct.pack("!H", 1002))
    plain.close()
    (entry,) = log(port, "ws-1012")
    assert (entry["ended"], entry["reason"]) == ("cut", "{:error, :badframe}")


def test_websocket_ticks(port):
    plain, reader = websocket(port, "/ws?tick_ms=5")
    read_frame(reader)
    assert [json.loads(read_frame(reader)[1])["tick"] for _ in range(3)] == [1, 2, 3]
    plain.close()


def test_websocket_closes_with_the_code_asked_for(port):
    plain, reader = websocket(port, "/ws?ticks=off&tag=ws-close")
    read_frame(reader)
    send_frame(plain, 1, b"close 4321")
    opcode, payload = read_frame(reader)
    assert (opcode, struct.unpack("!H", payload[:2])[0]) == (8, 4321)
    plain.close()


def test_a_cut_websocket_is_cut(port):
    plain, reader = websocket(port, "/ws?ticks=off&tag=ws-cut")
    read_frame(reader)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reader.close()
    plain.close()
    (entry,) = log(port, "ws-cut")
    assert entry["ended"] == "cut"
