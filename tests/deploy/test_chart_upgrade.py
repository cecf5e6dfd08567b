"""What only shows between an install and an upgrade: secrets stay, a founded fleet keeps its size.

Against the stand-in in api_stand_in.py, which is not a Kubernetes API server."""

import helm_python as helm
import pytest

from api_stand_in import ApiStandIn
from paths import CHART
from rendering import NAMESPACE, render

SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


@pytest.fixture
def api():
    api = ApiStandIn()
    yield api
    api.close()


@pytest.fixture
def release(api):
    with helm.Config(kubeconfig_content=api.kubeconfig(), namespace=NAMESPACE, storage_driver="memory") as config:
        config.install(str(CHART), "tidelock", {}, namespace=NAMESPACE)
        yield config


def secrets(api):
    return {name: api.objects[f"{SECRETS}/tidelock-{name}"]["data"] for name in ("fleet", "admin")}


def test_each_render_without_a_cluster_makes_new_secrets():
    first, second = ({m["metadata"]["name"]: m["data"] for m in render().manifests if m["kind"] == "Secret"} for _ in "12")
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_made_secrets_are_long_enough(api, release):
    import base64

    for data in secrets(api).values():
        (value,) = data.values()
        assert len(base64.b64decode(value)) >= 32


def test_secrets_stay_through_upgrades(api, release):
    before = secrets(api)
    release.upgrade(str(CHART), "tidelock", {"logLevel": "debug"}, namespace=NAMESPACE)
    assert secrets(api) == before


def test_the_fleets_secret_is_kept_with_the_volumes(api, release):
    before = secrets(api)["fleet"]
    release.uninstall("tidelock")
    assert f"{SECRETS}/tidelock-fleet" in api.objects
    assert f"{SECRETS}/tidelock-admin" not in api.objects
    release.install(str(CHART), "tidelock", {}, namespace=NAMESPACE)
    assert secrets(api)["fleet"] == before


def test_an_upgrade_cannot_change_the_number_of_voters(release):
    with pytest.raises(helm.HelmError, match="founded with 3 nodes"):
        release.upgrade(str(CHART), "tidelock", {"replicas": 5}, namespace=NAMESPACE)
