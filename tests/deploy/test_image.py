"""The container image: built by deploy/container/build.sh without pulling anything, inspected and run.

TIDELOCK_STATIC_BIN names a static binary. Without it a small C program stands in: what is tested here is the image
around the binary, not the binary; the tests that need the real one say so when they are skipped.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from contextlib import ExitStack, contextmanager

import pytest

from paths import DEPLOY, HERE

BUILDAH = ["buildah", "--storage-driver", "vfs"]
REAL = os.environ.get("TIDELOCK_STATIC_BIN")

pytestmark = pytest.mark.skipif(not shutil.which("buildah"), reason="buildah is not installed (make setup)")


def run(*command, **options):
    return subprocess.run(command, text=True, capture_output=True, timeout=120, **options)


def build(binary, tag):
    return run(DEPLOY / "container/build.sh", str(binary), tag)


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    if REAL:
        return REAL
    print("TIDELOCK_STATIC_BIN is not set: a static C program stands in for tidelock")
    output = tmp_path_factory.mktemp("stand-in") / "tidelock"
    compiled = run("gcc", "-static", "-O1", "-Wall", "-Werror", "-o", str(output), str(HERE / "static_stand_in.c"))
    assert compiled.returncode == 0, compiled.stderr
    return output


@pytest.fixture(scope="module")
def image(binary):
    tag = f"localhost/tidelock-test:{uuid.uuid4().hex[:12]}"
    built = build(binary, tag)
    assert built.returncode == 0, built.stderr
    yield tag
    run(*BUILDAH, "rmi", "--force", tag)


@pytest.fixture(scope="module")
def config(image):
    inspected = run(*BUILDAH, "inspect", "--type", "image", image)
    assert inspected.returncode == 0, inspected.stderr
    return json.loads(inspected.stdout)["OCIv1"]["config"]


@pytest.fixture
def container(image):
    name = run(*BUILDAH, "from", "--pull=never", image).stdout.strip()
    assert name
    yield name
    run(*BUILDAH, "rm", name)


def in_container(container, *command):
    return run(*BUILDAH, "run", "--isolation", "chroot", container, "--", *command)


def test_user_is_a_number_and_not_root(config):
    assert config["User"] == "65532:65532"


def test_starts_the_binary_with_the_mounted_configuration(config):
    assert config["Entrypoint"] == ["/tidelock"]
    assert config["Cmd"] == ["serve", "--config", "/etc/tidelock/tidelock.toml"]
    assert config["StopSignal"] == "SIGTERM"


def test_names_every_port(config):
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8443/tcp", "7946/tcp", "9900/tcp"}


def test_says_what_it_is(config):
    assert config["Labels"]["org.opencontainers.image.title"] == "tidelock"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_holds_the_binary_its_configuration_and_nothing_else(container):
    root = run(*BUILDAH, "mount", container).stdout.strip()
    files = sorted(
        os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names
    )
    data = os.stat(os.path.join(root, "var/lib/tidelock"))
    run(*BUILDAH, "umount", container)
    assert files == ["LICENSE", "etc/tidelock/tidelock.toml", "tidelock"]
    assert (data.st_uid, data.st_gid) == (65532, 65532)


@pytest.mark.skipif(bool(REAL), reason="the stand-in reports what the real binary does not")
def test_runs_without_root_and_without_a_shell(container):
    ran = in_container(container, "/tidelock", "serve", "--config", "x")
    assert ran.returncode == 0, ran.stderr
    assert "uid=65532 gid=65532 data=writable shell=absent args=serve,--config,x" in ran.stdout


@pytest.mark.skipif(not REAL, reason="TIDELOCK_STATIC_BIN is not set")
def test_the_real_binary_runs_from_scratch(container):
    ran = in_container(container, "/tidelock", "--version")
    assert ran.returncode == 0, ran.stderr
    assert "tidelock" in ran.stdout


@pytest.mark.skipif(not REAL, reason="TIDELOCK_STATIC_BIN is not set")
def test_the_real_binary_accepts_the_images_configuration(container):
    ran = in_container(container, "/tidelock", "check-config", "--config", "/etc/tidelock/tidelock.toml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for open_socket in sockets:
            open_socket.bind(("127.0.0.1", 0))
        return [open_socket.getsockname()[1] for open_socket in sockets]


@contextmanager
def running(container, *command, volumes=()):
    mounts = [part for volume in volumes for part in ("--volume", volume)]
    options = ["--isolation", "chroot", "--network", "host", *mounts]
    # In a session of its own, so that all of it can be ended: buildah passes signals on to its child, not for sure.
    process = subprocess.Popen(
        [*BUILDAH, "run", *options, container, "--", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.wait(timeout=20)


def eventually(what, check, seconds=60):
    """Waits for a state, not for an event: `check` may be asked as often as needed."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if value := check():
                return value
        except (urllib.error.URLError, ConnectionError, subprocess.TimeoutExpired):
            pass
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


@pytest.mark.skipif(not REAL, reason="TIDELOCK_STATIC_BIN is not set")
def test_three_containers_form_a_fleet_and_serve(image, tmp_path):
    ports = free_ports(10)
    admins, peers, listeners, endpoint = ports[0:3], ports[3:6], ports[6:9], ports[9]
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    secret.chmod(0o644)
    apis = ",".join(f"http://127.0.0.1:{port}" for port in admins)
    with ExitStack() as stack:

        def container():
            name = run(*BUILDAH, "from", "--pull=never", image).stdout.strip()
            stack.callback(run, *BUILDAH, "rm", name)
            return name

        for node, (admin, peer, listener) in enumerate(zip(admins, peers, listeners)):
            config = tmp_path / f"{node}.toml"
            config.write_text(
                f"""
                [node]
                name = "node-{node}"
                data_dir = "/var/lib/tidelock"
                [fleet]
                listen = "127.0.0.1:{peer}"
                founders = {json.dumps([f"127.0.0.1:{port}" for port in peers])}
                secret_file = "/etc/tidelock/secret"
                [admin]
                listen = "127.0.0.1:{admin}"
                [[listeners]]
                address = "127.0.0.1:{listener}"
                """
            )
            volumes = [f"{config}:/etc/tidelock/tidelock.toml:ro", f"{secret}:/etc/tidelock/secret:ro"]
            command = ["/tidelock", "serve", "--config", "/etc/tidelock/tidelock.toml"]
            stack.enter_context(running(container(), *command, volumes=volumes))
        app = ["/tidelock", "demo-endpoint", "--listen", f"127.0.0.1:{endpoint}", "--name", "app-1"]
        stack.enter_context(running(container(), *app))

        def put(*words):
            return run(REAL, "--api", apis, *words).returncode == 0

        eventually("the fleet takes a pool", lambda: put("pool", "put", "app", "--protocol", "h2c"))
        assert put("endpoint", "put", "app", "app-1", "--address", f"127.0.0.1:{endpoint}")
        assert put("route", "put", "web", "--pool", "app", "--host", "127.0.0.1")
        for listener in listeners:

            def page(url=f"http://127.0.0.1:{listener}/"):
                return urllib.request.urlopen(url, timeout=5).read()

            assert b"app-1" in eventually(f"node on {listener} serves the route", page)


def test_a_dynamic_binary_is_refused_with_the_reason():
    built = build(shutil.which("true"), "localhost/tidelock-test:never")
    assert built.returncode == 65
    assert "linked dynamically" in built.stderr
