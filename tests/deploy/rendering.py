"""Renders the chart offline and hands out parsed manifests."""

import re
import tomllib

import helm_python as helm
import yaml

from paths import CHART

NAMESPACE = "edge"


class Rendered:
    def __init__(self, texts):
        self.notes = next((text for name, text in texts.items() if name.endswith("NOTES.txt")), "")
        self.texts = {name: text for name, text in texts.items() if name.endswith(".yaml")}
        self.manifests = [m for text in self.texts.values() for m in yaml.safe_load_all(text) if m]

    def of(self, kind, name=None):
        found = [m for m in self.manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} of {kind} {name}: {[m['metadata']['name'] for m in found]}"
        return found[0]

    def kinds(self):
        return {m["kind"] for m in self.manifests}

    @property
    def statefulset(self):
        return self.of("StatefulSet")["spec"]

    @property
    def pod(self):
        return self.statefulset["template"]["spec"]

    @property
    def container(self):
        (container,) = self.pod["containers"]
        return container

    @property
    def toml_text(self):
        return self.of("ConfigMap")["data"]["tidelock.toml"]

    @property
    def toml(self):
        return tomllib.loads(self.toml_text)

    @property
    def services(self):
        return {m["metadata"]["labels"]["app.kubernetes.io/component"]: m for m in self.manifests if m["kind"] == "Service"}

    def environment(self, pod_name):
        """The container's variables as the kubelet would resolve them for this pod."""
        resolved = {}
        for variable in self.container["env"]:
            if "valueFrom" in variable:
                assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}, variable
                value = pod_name
            else:
                value = re.sub(r"\$\((\w+)\)", lambda m: resolved.get(m[1], m[0]), variable["value"])
            resolved[variable["name"]] = value
        return resolved

    def pod_names(self):
        statefulset = self.of("StatefulSet")
        return [f"{statefulset['metadata']['name']}-{n}" for n in range(statefulset["spec"]["replicas"])]


def render(values=None, name="tidelock"):
    with helm.Chart.load(CHART) as chart:
        return Rendered(chart.render(values or {}, name=name, namespace=NAMESPACE))
