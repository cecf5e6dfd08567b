"""Autobahn's fuzzing client through the balancer, beside the same server alone: the balancer may make nothing worse.

TIDELOCK_AUTOBAHN names the command that runs `wstest` (autobahntestsuite 0.8.2 from PyPI wants Python 2.7). The cases
that only test compression and throughput of a server are left out.
"""

import json
import os
import shlex
import subprocess

import pytest

WSTEST = os.environ.get("TIDELOCK_AUTOBAHN")
# What Autobahn itself lets pass; how soon an answer comes before a violation decides between them.
FINE = {"OK", "NON-STRICT", "INFORMATIONAL"}


@pytest.mark.skipif(not WSTEST, reason="TIDELOCK_AUTOBAHN is not set")
def test_every_case_goes_as_it_does_without_the_balancer(node, websocket_port, tmp_path):
    spec = {
        "outdir": str(tmp_path / "reports"),
        "servers": [
            {"agent": "alone", "url": f"ws://127.0.0.1:{websocket_port}"},
            # By its address: a route of the node's is for it.
            {"agent": "balanced", "url": f"ws://127.0.0.1:{node.plain}"},
        ],
        "cases": ["*"],
        "exclude-cases": ["9.*", "12.*", "13.*"],
        "exclude-agent-cases": {},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [*shlex.split(WSTEST), "-m", "fuzzingclient", "-s", "spec.json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    reports = json.loads((tmp_path / "reports/index.json").read_text())
    alone, balanced = reports["alone"], reports["balanced"]
    assert len(balanced) == len(alone) > 200
    worse = {
        case: (result["behavior"], result["behaviorClose"])
        for case, result in balanced.items()
        if not (result["behavior"] in FINE and result["behaviorClose"] in FINE)
        and (result["behavior"], result["behaviorClose"]) != (alone[case]["behavior"], alone[case]["behaviorClose"])
    }
    assert not worse, worse
