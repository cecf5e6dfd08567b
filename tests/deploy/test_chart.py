"""The Helm chart: what its manifests promise. Properties of parsed manifests, not golden text."""

import helm_python as helm
import kubernetes_validate
import pytest
from kubernetes_validate.utils import latest_version

from paths import CHART
from rendering import NAMESPACE, render
from value_sets import VALUE_SETS

every_set = pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())


@every_set
def test_lints_without_a_warning(values):
    report = helm.lint(CHART, values, strict=True, namespace=NAMESPACE)
    assert report["total_charts_linted"] == 1
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@every_set
def test_manifests_are_valid_for_the_newest_kubernetes(values):
    for manifest in render(values).manifests:
        if manifest["kind"] == "ServiceMonitor":
            continue  # a custom resource; the operator's schema is not ours to ship
        kubernetes_validate.validate(manifest, latest_version(), strict=True)


def test_the_validator_would_notice_a_misspelt_field():
    manifest = render().of("StatefulSet")
    manifest["spec"]["template"]["spec"]["terminationGraceSeconds"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, latest_version(), strict=True)


@every_set
def test_everything_lies_in_the_releases_namespace_and_carries_its_labels(values):
    for manifest in render(values).manifests:
        assert manifest["metadata"]["namespace"] == NAMESPACE
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "tidelock"


# The fleet.


@every_set
def test_every_node_knows_every_founder_and_is_one(values):
    rendered = render(values)
    founders = rendered.toml["fleet"]["founders"]
    advertised = [rendered.environment(pod)["TIDELOCK_FLEET_ADVERTISE"] for pod in rendered.pod_names()]
    assert advertised == founders
    assert len(set(founders)) == rendered.statefulset["replicas"]


def test_three_nodes_are_founded_by_default():
    rendered = render()
    assert rendered.pod_names() == ["tidelock-0", "tidelock-1", "tidelock-2"]
    assert rendered.toml["fleet"]["founders"] == [
        f"{pod}.tidelock-peers.{NAMESPACE}.svc.cluster.local:7946" for pod in rendered.pod_names()
    ]
    assert rendered.of("StatefulSet")["metadata"]["annotations"]["tidelock/founders"] == "3"


@every_set
def test_peer_names_resolve_before_a_node_is_ready(values):
    rendered = render(values)
    peers = rendered.services["peers"]
    assert peers["spec"]["clusterIP"] == "None"
    assert peers["spec"]["publishNotReadyAddresses"] is True
    assert rendered.statefulset["serviceName"] == peers["metadata"]["name"]
    assert rendered.statefulset["podManagementPolicy"] == "Parallel"
    name = peers["metadata"]["name"]
    assert all(f".{name}.{NAMESPACE}.svc." in founder for founder in rendered.toml["fleet"]["founders"])


@every_set
def test_services_and_budget_and_policy_select_the_pods(values):
    rendered = render(values)
    labels = rendered.statefulset["template"]["metadata"]["labels"]
    selectors = [s["spec"]["selector"] for s in rendered.services.values()]
    selectors += [
        rendered.statefulset["selector"]["matchLabels"],
        rendered.of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        rendered.of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    selectors += [c["labelSelector"]["matchLabels"] for c in rendered.pod.get("topologySpreadConstraints", [])]
    for selector in selectors:
        assert selector and selector.items() <= labels.items()


@every_set
def test_bound_ports_and_published_ports_agree(values):
    rendered = render(values)
    ports = {p["name"]: p["containerPort"] for p in rendered.container["ports"]}
    toml = rendered.toml
    bound = [toml["admin"]["listen"], toml["fleet"]["listen"], *(l["address"] for l in toml["listeners"])]
    assert sorted(int(a.rsplit(":", 1)[1]) for a in bound) == sorted(ports.values())
    for service in rendered.services.values():
        assert all(p["targetPort"] in ports for p in service["spec"]["ports"])
    assert int(toml["fleet"]["founders"][0].rsplit(":", 1)[1]) == ports["peers"]


@every_set
def test_a_fleet_keeps_its_majority_through_evictions(values):
    budget = render(values).of("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_volumes_outlive_the_release():
    statefulset = render().statefulset
    assert statefulset["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = statefulset["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"


def test_nodes_are_spread_over_machines_and_zones():
    constraints = {c["topologyKey"]: c["whenUnsatisfiable"] for c in render().pod["topologySpreadConstraints"]}
    assert constraints == {
        "kubernetes.io/hostname": "ScheduleAnyway",
        "topology.kubernetes.io/zone": "ScheduleAnyway",
    }
    hard = render(VALUE_SETS["five"]).pod["topologySpreadConstraints"]
    assert [(c["topologyKey"], c["whenUnsatisfiable"]) for c in hard] == [("kubernetes.io/hostname", "DoNotSchedule")]
    assert "topologySpreadConstraints" not in render({"spread": {"hosts": "Off", "zones": "Off"}}).pod


# Starting, living, leaving.


@every_set
def test_probes_ask_the_admin_port(values):
    container = render(values).container
    paths = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert {container[probe]["httpGet"]["port"] for probe in paths} == {"admin"}


def test_a_long_replay_of_the_log_is_not_killed():
    startup = render().container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 120


@every_set
def test_grace_covers_settle_and_deadline(values):
    rendered = render(values)
    drain = rendered.toml["drain"]
    grace = rendered.pod["terminationGracePeriodSeconds"]
    assert grace * 1000 >= drain["settle_ms"] + drain["deadline_ms"] + 5000


def test_grace_rounds_up():
    assert render().pod["terminationGracePeriodSeconds"] == 5 + 30 + 15
    assert render(VALUE_SETS["ports"]).pod["terminationGracePeriodSeconds"] == 62 + 20


@every_set
def test_pre_stop_leaves_by_the_local_admin_api(values):
    rendered = render(values)
    command = rendered.container["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:4] == ["/tidelock", "node", "leave", "--wait"]
    api = command[command.index("--api") + 1]
    assert api.rsplit(":", 1)[1] == rendered.toml["admin"]["listen"].rsplit(":", 1)[1]
    assert command[command.index("--token-file") + 1] == rendered.toml["admin"]["token_file"]


def test_a_changed_configuration_rolls_the_pods():
    def digest(values):
        return render(values).statefulset["template"]["metadata"]["annotations"]["tidelock/config"]

    assert digest({}) == digest({})
    assert digest({}) != digest({"config": {"accessLog": "off"}})
    assert digest({}) == digest({"service": {"type": "NodePort"}})


# Least privilege.


@every_set
def test_pods_meet_the_restricted_pod_security_standard(values):
    rendered = render(values)
    pod, container = rendered.pod["securityContext"], rendered.container["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) == (65532, 65532, 65532)
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & rendered.pod.keys()
    assert all(p.get("hostPort") is None for p in rendered.container["ports"])


@every_set
def test_no_token_of_the_kubernetes_api_is_mounted(values):
    rendered = render(values)
    assert rendered.pod["automountServiceAccountToken"] is False
    if "ServiceAccount" in rendered.kinds():
        account = rendered.of("ServiceAccount")
        assert account["automountServiceAccountToken"] is False
        assert rendered.pod["serviceAccountName"] == account["metadata"]["name"]


def test_service_variables_cannot_be_taken_for_settings():
    assert render().pod["enableServiceLinks"] is False


@every_set
def test_every_file_that_the_configuration_names_is_mounted(values):
    rendered = render(values)
    (config,) = [v for v in rendered.pod["volumes"] if v["name"] == "config"]
    items = [
        item["path"]
        for source in config["projected"]["sources"]
        for item in next(iter(source.values()))["items"]
    ]
    toml = rendered.toml
    fleet = toml["fleet"]
    by = {k: v for k, v in fleet["tls"].items() if k != "name"}.values() if "tls" in fleet else [fleet["secret_file"]]
    named = [*by, toml["admin"]["token_file"], "/etc/tidelock/tidelock.toml"]
    for listener in toml["listeners"]:
        named += listener.get("tls", {}).values()
    assert sorted(named) == sorted(f"/etc/tidelock/{item}" for item in items)
    assert config["projected"]["defaultMode"] == 0o440


def test_peers_know_each_other_by_certificates_or_by_a_secret():
    rendered = render({"fleetTls": {"existingSecret": "peer-certificate"}})
    assert "name" not in rendered.toml["fleet"]["tls"] and "secret_file" not in rendered.toml["fleet"]
    made = [m["metadata"]["name"] for m in rendered.manifests if m["kind"] == "Secret"]
    assert made == ["tidelock-admin"], "no secret is made that nobody reads"
    sources = [v for v in rendered.pod["volumes"] if v["name"] == "config"][0]["projected"]["sources"]
    (mounted,) = [s["secret"]["items"] for s in sources if s.get("secret", {}).get("name") == "peer-certificate"]
    assert [item["key"] for item in mounted] == ["ca.crt", "tls.crt", "tls.key"]

    with pytest.raises(Exception, match="leave one of them empty"):
        render({"fleetTls": {"existingSecret": "a"}, "fleetSecret": {"existingSecret": "b"}})
    with pytest.raises(Exception, match="fleetTls.existingSecret names none"):
        render({"fleetTls": {"name": "peer.example"}})


def test_secrets_never_appear_in_the_configuration_or_the_environment():
    rendered = render()
    values = [v for m in rendered.manifests if m["kind"] == "Secret" for v in m["data"].values()]
    assert len(values) == 2
    rest = "".join(text for name, text in rendered.texts.items() if not name.endswith("secrets.yaml"))
    assert not any(value in rest for value in values)
    assert all("secretKeyRef" not in str(variable) for variable in rendered.container["env"])


def test_peers_reach_peers_and_only_named_ones_reach_admin():
    rendered = render()
    rules = {p["port"]: rule.get("from") for rule in rendered.of("NetworkPolicy")["spec"]["ingress"] for p in rule["ports"]}
    assert rules["http"] is None
    assert rules["peers"] == [{"podSelector": {"matchLabels": rendered.statefulset["selector"]["matchLabels"]}}]
    assert rules["admin"] == [{"podSelector": {}}]
    closed = render({"networkPolicy": {"adminFrom": []}}).of("NetworkPolicy")["spec"]["ingress"]
    assert "admin" not in {p["port"] for rule in closed for p in rule["ports"]}


@pytest.mark.parametrize(
    ("section", "kind"),
    [("networkPolicy", "NetworkPolicy"), ("podDisruptionBudget", "PodDisruptionBudget")],
)
def test_a_part_that_is_switched_off_is_not_rendered(section, kind):
    assert kind in render().kinds()
    assert kind not in render({section: {"enabled": False}}).kinds()


# Clients.


def test_clients_keep_their_address_by_default():
    spec = render().services["traffic"]["spec"]
    assert (spec["type"], spec["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert [(p["port"], p["targetPort"]) for p in spec["ports"]] == [(80, "http")]


def test_cluster_ip_has_no_traffic_policy():
    assert "externalTrafficPolicy" not in render({"service": {"type": "ClusterIP"}}).services["traffic"]["spec"]


def test_the_admin_api_is_never_published():
    admin = render(VALUE_SETS["everything"]).services["admin"]["spec"]
    assert admin["type"] == "ClusterIP"
    traffic = render().services["traffic"]["spec"]
    assert {p["targetPort"] for p in traffic["ports"]}.isdisjoint({"admin", "peers"})


def test_prometheus_reads_metrics_with_the_token():
    assert "ServiceMonitor" not in render().kinds()
    rendered = render(VALUE_SETS["everything"])
    monitor = rendered.of("ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "monitoring"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("admin", "/metrics")
    assert endpoint["authorization"]["credentials"] == {"name": "tidelock-admin", "key": "token"}
    admin = rendered.services["admin"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= admin.items()


def test_own_secrets_are_used_and_none_is_made():
    rendered = render(VALUE_SETS["own-secrets"])
    assert "Secret" not in rendered.kinds()
    (config,) = [v for v in rendered.pod["volumes"] if v["name"] == "config"]
    secrets = {
        source["secret"]["name"]: source["secret"]["items"] for source in config["projected"]["sources"] if "secret" in source
    }
    assert secrets == {
        "vault-fleet": [{"key": "fleet.key", "path": "fleet-secret"}],
        "vault-admin": [{"key": "bearer", "path": "admin-token"}],
    }


# The configuration file.


def test_numbers_stay_integers_and_shapes_stay_the_apis():
    values = {**VALUE_SETS["everything"]["config"], "limits": {"some_bytes": 65536}, "timeouts": {"some_ms": 1500}}
    toml = render({"config": values}).toml
    assert toml["node"]["workers"] == 4
    assert toml["limits"] == {"some_bytes": 65536}
    assert toml["timeouts"] == {"some_ms": 1500}
    assert toml["access_log"] == {"format": "off"}
    assert toml["initial"] == values["initial"]
    assert all(isinstance(v, int) for v in toml["initial"]["pools"][0]["spec"]["timeouts"].values())


def test_text_cannot_break_out_of_the_configuration():
    hostile = 'a"\n[admin]\nlisten = "0.0.0.0:1" # \\ <&>'
    route = {"name": "web", "spec": {"host": hostile, "pool": "app"}}
    toml = render({"config": {"initial": {"routes": [route]}}}).toml
    assert toml["initial"]["routes"] == [route]
    assert toml["admin"]["listen"] == "0.0.0.0:9900"


def test_null_is_left_out():
    route = {"name": "web", "spec": {"host": None, "path_prefix": "/", "pool": "app"}}
    assert render({"config": {"initial": {"routes": [route]}}}).toml["initial"]["routes"][0]["spec"] == {
        "path_prefix": "/",
        "pool": "app",
    }


# The notes.


def test_notes_lead_to_the_first_route():
    notes = render().notes
    for step in (
        f"kubectl -n {NAMESPACE} port-forward service/tidelock-admin 9900",
        "get secret tidelock-admin -o jsonpath='{.data.token}'",
        "tidelock pool put app --protocol h2c",
        "tidelock endpoint put app app-0 --address ",
        "tidelock route put web --pool app",
        "tidelock endpoint drain app app-0 --wait",
    ):
        assert step in notes
    assert "WARNING" not in notes
    assert "WARNING: persistence is off" in render(VALUE_SETS["one"]).notes
