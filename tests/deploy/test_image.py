"""The container image: built by deploy/container/build.sh without pulling anything, inspected and run.

TIDELOCK_STATIC_BIN names a static binary. Without it a small C program stands in: what is tested here is the image
around the binary, not the binary; the tests that need the real one say so when they are skipped.
"""

import json
import os
import shutil
import subprocess
import uuid

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


def test_a_dynamic_binary_is_refused_with_the_reason():
    built = build(shutil.which("true"), "localhost/tidelock-test:never")
    assert built.returncode == 65
    assert "linked dynamically" in built.stderr
