"""Wrong values are refused before anything is installed, and the message names what is wrong."""

import json

import helm_python as helm
import pytest

from paths import CHART
from rendering import render

REFUSED = {
    "unknown at the top": ({"replicaCount": 3}, "replicaCount"),
    "unknown below": ({"service": {"port": 80}}, "port"),
    "an even number of voters": ({"replicas": 2}, "/replicas"),
    "replicas as text": ({"replicas": "3"}, "/replicas"),
    "a privileged port": ({"listeners": [{"name": "http", "port": 80, "servicePort": 80}]}, "/listeners/0/port"),
    "no listener": ({"listeners": []}, "/listeners"),
    "a listener called like our own port": (
        {"listeners": [{"name": "admin", "port": 8080, "servicePort": 80}]},
        "/listeners/0/name",
    ),
    "tls without a secret": (
        {"listeners": [{"name": "https", "port": 8443, "servicePort": 443, "tls": {}}]},
        "secretName",
    ),
    "a misspelt policy": ({"service": {"externalTrafficPolicy": "local"}}, "/service/externalTrafficPolicy"),
    "an unknown service type": ({"service": {"type": "ExternalName"}}, "/service/type"),
    "no margin": ({"drain": {"marginSeconds": 0}}, "/drain/marginSeconds"),
    "grace set apart": ({"terminationGracePeriodSeconds": 10}, "terminationGracePeriodSeconds"),
    "a short digest": ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    "a bare IPv6 address": ({"bindAddress": "::"}, "/bindAddress"),
    "an unknown protocol": (
        {"config": {"initial": {"pools": [{"name": "app", "spec": {"protocol": "h3"}}]}}},
        "/config/initial/pools/0/spec/protocol",
    ),
    "a limit that is a list": ({"config": {"limits": {"some": [1]}}}, "/config/limits/some"),
    "an open security context": ({"securityContext": {"privileged": True}}, "securityContext"),
}


@pytest.mark.parametrize(("values", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_the_schema_by_name(values, named):
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmError) as refusal:
        chart.validate_schema(values)
    assert named in str(refusal.value)
    with pytest.raises(helm.HelmError):
        render(values)


WORDS = {
    "a fleet without volumes": ({"persistence": {"enabled": False}}, "only with replicas=1"),
    "a name twice": (
        {"listeners": [{"name": "a", "port": 8080, "servicePort": 80}, {"name": "a", "port": 8081, "servicePort": 81}]},
        'the name "a" is used twice',
    ),
    "a port twice": (
        {"listeners": [{"name": "a", "port": 8080, "servicePort": 80}, {"name": "b", "port": 8080, "servicePort": 81}]},
        '"b" wants port 8080',
    ),
    "a listener on the admin port": ({"listeners": [{"name": "a", "port": 9900, "servicePort": 80}]}, '"a" wants port 9900'),
    "a service port twice": (
        {"listeners": [{"name": "a", "port": 8080, "servicePort": 80}, {"name": "b", "port": 8081, "servicePort": 80}]},
        '"b" wants servicePort 80',
    ),
    "settling longer than everything": ({"drain": {"settleMs": 40000}}, "drain.settleMs (40000) is longer"),
    "admin and peers on one port": ({"admin": {"port": 7946}}, "admin.port and peers.port are both 7946"),
}


@pytest.mark.parametrize(("values", "words"), WORDS.values(), ids=WORDS.keys())
def test_refused_by_the_templates_in_words(values, words):
    with pytest.raises(helm.HelmError) as refusal:
        render(values)
    assert words in str(refusal.value)


def test_every_object_of_the_schema_is_closed_or_deliberately_open():
    # Maps of Kubernetes' own types, and labels and annotations: their names are the user's.
    open_ones = {
        "affinity", "claims", "global", "ipBlock", "limits", "namespaceSelector", "podSelector", "requests", "tolerations",
        "valueFrom",
    }

    def visit(name, schema):
        if schema.get("type") == "object" and name not in open_ones:
            assert "additionalProperties" in schema, name
        for key, child in schema.get("properties", {}).items():
            visit(key, child)
        if isinstance(schema.get("items"), dict):
            visit(name, schema["items"])

    visit("", json.loads((CHART / "values.schema.json").read_text()))


def test_every_default_is_described_by_the_schema():
    schema = json.loads((CHART / "values.schema.json").read_text())
    with helm.Chart.load(CHART) as chart:
        values = chart.values

    def visit(path, value, described):
        for key, child in value.items():
            assert key in described.get("properties", {}), f"{path}.{key}"
            if isinstance(child, dict) and child:
                inner = described["properties"][key]
                if "properties" in inner:
                    visit(f"{path}.{key}", child, inner)

    visit("", values, schema)
