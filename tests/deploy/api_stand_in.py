"""A stand-in for a Kubernetes API server, just large enough for Helm to install, upgrade and look things up.

It keeps objects by their URL and knows the kinds of our chart. It is no API server: it admits everything, defaults
nothing and answers an apply patch by storing the patch. What a real one adds is not what these tests are about.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import yaml

KINDS = {
    "v1": {
        "ConfigMap": "configmaps",
        "Namespace": "namespaces",
        "Secret": "secrets",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
    },
    "apps/v1": {"StatefulSet": "statefulsets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def root(version):
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def openapi(version):
    """Says no more than that each kind takes `fieldValidation`: then Helm leaves validation to the server."""
    group, _, bare = version.rpartition("/")
    field_validation = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    paths = {
        f"{root(version)}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": field_validation,
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": group, "version": bare, "kind": kind},
            }
        }
        for kind, plural in KINDS[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "0"}, "paths": paths}


class ApiStandIn:
    def __init__(self):
        self.objects = {}
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def body(self):
                return yaml.safe_load(self.rfile.read(int(self.headers.get("content-length") or 0)))

            def handle_one(self, act):
                path = urlsplit(self.path).path
                outer.requests.append(f"{self.command} {path}")
                self.answer(*act(path))

            def do_GET(self):
                self.handle_one(outer.get)

            def do_POST(self):
                body = self.body()
                self.handle_one(lambda path: outer.put(f"{path}/{body['metadata']['name']}", body, 201))

            def do_PUT(self):
                body = self.body()
                self.handle_one(lambda path: outer.put(path, body, 200))

            def do_PATCH(self):
                body = self.body()
                self.handle_one(lambda path: outer.put(path, body, 200))

            def do_DELETE(self):
                self.body()
                self.handle_one(lambda path: (200, outer.objects.pop(path, {"kind": "Status", "status": "Success"})))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def kubeconfig(self):
        return json.dumps({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        })

    def put(self, path, body, status):
        self.objects[path] = body
        return status, body

    def get(self, path):
        if path in self.objects:
            return 200, self.objects[path]
        if path == "/version":
            return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [version for version in KINDS if "/" in version]
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [self.group(g) for g in groups]}
        if path == "/openapi/v3":
            roots = {root(version).strip("/"): version for version in KINDS}
            return 200, {"paths": {r: {"serverRelativeURL": f"/openapi/v3/{r}?hash=1"} for r in roots}}
        if path.startswith("/openapi/v3/"):
            return 200, openapi(path.removeprefix("/openapi/v3").removeprefix("/apis/").removeprefix("/api/"))
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            return 200, {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": version,
                "resources": [
                    {"name": plural, "singularName": "", "namespaced": kind != "Namespace", "kind": kind, "verbs": VERBS}
                    for kind, plural in KINDS[version].items()
                ],
            }
        return 404, {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": "NotFound",
            "code": 404,
            "message": f"{path} not found",
        }

    @staticmethod
    def group(group_version):
        name, version = group_version.split("/")
        preferred = {"groupVersion": group_version, "version": version}
        return {"name": name, "versions": [preferred], "preferredVersion": preferred}
