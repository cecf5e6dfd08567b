"""Value sets that between them reach every branch of the templates. Each must lint, render, validate and pass
`tidelock check-config`."""

VALUE_SETS = {
    "defaults": {},
    "one": {"replicas": 1, "persistence": {"enabled": False}, "service": {"type": "ClusterIP"}},
    "five": {"replicas": 5, "spread": {"hosts": "DoNotSchedule", "zones": "Off"}},
    "tls": {
        "listeners": [
            {"name": "http", "port": 8080, "servicePort": 80},
            {"name": "https", "port": 8443, "servicePort": 443, "tls": {"secretName": "example-com-tls"}},
        ],
    },
    "own-secrets": {
        "fleetSecret": {"existingSecret": "vault-fleet", "key": "fleet.key"},
        "adminToken": {"existingSecret": "vault-admin", "key": "bearer"},
        "serviceAccount": {"create": False},
    },
    "peer-certificates": {"fleetTls": {"existingSecret": "peer-certificate", "name": "nodes.example"}},
    "ipv6": {"bindAddress": "[::]", "service": {"ipFamilyPolicy": "PreferDualStack"}},
    "ports": {
        "listeners": [{"name": "web", "port": 10080, "servicePort": 8000}],
        "peers": {"port": 17946},
        "admin": {"port": 19900},
        "clusterDomain": "k8s.example",
        "fullnameOverride": "edge",
        "drain": {"settleMs": 1500, "deadlineMs": 60001, "marginSeconds": 20},
    },
    "everything": {
        "replicas": 7,
        "image": {"repository": "images.example/tidelock", "digest": "sha256:" + "0" * 64, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "service": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Cluster",
            "annotations": {"example.com/kind": "public"},
            "loadBalancerClass": "example.com/lb",
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
        },
        "persistence": {"size": "5Gi", "storageClass": "fast", "annotations": {"example.com/backup": "yes"}},
        "serviceAccount": {"name": "balancer", "annotations": {"example.com/role": "edge"}},
        "serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "monitoring"}},
        "networkPolicy": {
            "adminFrom": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
                {"ipBlock": {"cidr": "192.0.2.0/24"}},
            ],
        },
        "logLevel": "info,tidelock_balancer=debug",
        "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}],
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"team": "edge"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "edge", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [{"key": "edge", "operator": "Exists"}]}}
                ]
            }
        },
        "priorityClassName": "system-cluster-critical",
        "config": {
            "workers": 4,
            "accessLog": "off",
            "limits": {"max_streams_per_connection": 256, "max_header_bytes": 32768},
            "timeouts": {"downstream_idle_ms": 90000},
            "initial": {
                "pools": [
                    {
                        "name": "app",
                        "spec": {
                            "protocol": "h2c",
                            "strip_content_length": True,
                            "timeouts": {
                                "connect_ms": 5000,
                                "first_byte_ms": 60000,
                                "idle_ms": 60000,
                                "websocket_idle_ms": 3600000,
                                "total_ms": 900000,
                                "keep_alive_ms": 4000,
                                "connection_age_ms": 600000,
                            },
                        },
                        "endpoints": [{"name": "app-0", "address": "192.0.2.5:4000", "weight": 1, "revision": "v1"}],
                    }
                ],
                "routes": [
                    {
                        "name": "web",
                        "spec": {
                            "host": "*.example.com",
                            "path_prefix": "/",
                            "pool": "app",
                            "affinity": {"kind": "app-cookie", "name": "session"},
                            "expose": True,
                        },
                    },
                    {"name": "api", "spec": {"pool": "app", "affinity": {"kind": "none"}, "path_prefix": "/api"}},
                ],
            },
        },
    },
}
