"""The rendered tidelock.toml, read by the real binary as each pod would read it. TIDELOCK_BIN names the binary."""

import os
import shutil
import subprocess

import pytest

from paths import DEPLOY
from rendering import render
from value_sets import VALUE_SETS

TIDELOCK = os.environ.get("TIDELOCK_BIN")

pytestmark = pytest.mark.skipif(not TIDELOCK, reason="TIDELOCK_BIN is not set (make test sets it)")


def check(text, environment, folder):
    """Runs check-config; what the pod would have mounted lies in `folder` instead."""
    (folder / "fleet-secret").write_text("s" * 48)
    (folder / "admin-token").write_text("t" * 48)
    (folder / "data").mkdir(exist_ok=True)
    text = text.replace("/etc/tidelock", str(folder)).replace("/var/lib/tidelock", str(folder / "data"))
    config = folder / "tidelock.toml"
    config.write_text(text)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TIDELOCK_")}
    return subprocess.run(
        [TIDELOCK, "check-config", "--config", str(config)],
        env={**inherited, **environment},
        text=True,
        capture_output=True,
        timeout=30,
    )


def certificates(rendered, folder):
    """A certificate for each listener with TLS and for the peers, where the configuration will look for it."""
    sections = [*rendered.toml["listeners"], rendered.toml["fleet"]]
    for tls in [section["tls"] for section in sections if "tls" in section]:
        paths = {k: str(folder) + v.removeprefix("/etc/tidelock") for k, v in tls.items()}
        os.makedirs(os.path.dirname(paths["key"]), exist_ok=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=example.com", "-addext", "subjectAltName=DNS:example.com", "-keyout", paths["key"],
             "-out", paths["certificate"]],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        if "authorities" in paths:
            shutil.copy(paths["certificate"], paths["authorities"])


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
def test_every_pod_accepts_its_configuration(values, tmp_path):
    rendered = render(values)
    certificates(rendered, tmp_path)
    for pod in rendered.pod_names():
        checked = check(rendered.toml_text, rendered.environment(pod), tmp_path)
        assert checked.returncode == 0, f"{pod}: {checked.stdout}{checked.stderr}"


def test_an_unknown_limit_is_refused_by_name(tmp_path):
    rendered = render({"config": {"limits": {"no_such_limit": 1}}})
    checked = check(rendered.toml_text, rendered.environment("tidelock-0"), tmp_path)
    assert checked.returncode != 0
    assert "no_such_limit" in checked.stdout + checked.stderr


def test_the_images_own_configuration_is_accepted(tmp_path):
    checked = check((DEPLOY / "container/tidelock.toml").read_text(), {}, tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
