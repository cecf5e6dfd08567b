"""What a node tells of itself is OpenMetrics, by a strict reader, and counts what happens."""

import subprocess
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from test_curl import status


def read(node):
    """All samples, by name and labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{node.admin}/metrics", timeout=5).read().decode()
    families = list(text_string_to_metric_families(text))
    for family in families:
        assert family.documentation, family
        assert family.type in ("counter", "gauge", "info"), family
    return {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}


def test_metrics_are_read_by_a_strict_reader_and_count(node):
    before = read(node)
    assert status(node, "http1", "demo-h1.test", "/counter") == "200"
    assert status(node, "http1", "nobody.test", "/") == "421"
    assert status(node, "h2c", "demo-h1.test", "/" + "x" * 9000) == "414"
    assert status(node, "http1", "demo-h1.test", "/", "-H", "x: " + "y" * 17000) == "431"
    after = read(node)

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return after[key] - before[key]

    assert grown("tidelock_responses_2xx_total") == 1
    assert grown("tidelock_responses_4xx_total") == 3
    for reason in ("unknown-host", "target-too-long", "headers-too-large"):
        assert grown("tidelock_responses_own_total", reason=reason) == 1, reason
    assert grown("tidelock_downstream_connections_total") == 4
    assert ("tidelock_build_info", ("version", version())) in after


def version():
    from conftest import BINARY

    return subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
