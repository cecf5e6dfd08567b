// Turns whatever `/v1/status` answered into a `Status`, or throws. A field that an older or newer
// node leaves out gets a harmless value here, so that no component has to ask whether it exists.

import type { Drain, DrainNode, Endpoint, EndpointHealth, FleetNode, NodeCounts, Pool, Route, Side, Status, Switchover } from "./types";

type Fields = Record<string, unknown>;

function fields(value: unknown): Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

function list<T>(value: unknown, item: (fields: Fields) => T): T[] {
  return Array.isArray(value) ? value.map((entry) => item(fields(entry))) : [];
}

function text(value: unknown, otherwise = ""): string {
  return typeof value === "string" ? value : otherwise;
}

function textOrNull(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}

function count(value: unknown, otherwise = 0): number {
  return typeof value === "number" && Number.isFinite(value) ? value : otherwise;
}

function countOrNull(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export function parseStatus(json: unknown): Status {
  const status = fields(json);
  if (typeof status["epoch"] !== "number" || typeof status["node"] !== "string") {
    throw new Error("the answer is not a Tidelock status: it has no epoch or no node");
  }
  return {
    epoch: status["epoch"],
    node: status["node"],
    leader: textOrNull(status["leader"]),
    quorum: status["quorum"] === true,
    pools: list(status["pools"], pool),
    nodes: list(status["nodes"], node),
    drains: list(status["drains"], drain),
    switchovers: list(status["switchovers"], switchover),
    routes: list(status["routes"], route),
  };
}

function pool(value: Fields): Pool {
  const spec = fields(value["spec"]);
  const affinity = fields(spec["affinity"]);
  return {
    name: text(value["name"]),
    spec: {
      protocol: textOrNull(spec["protocol"]),
      affinity: { kind: text(affinity["kind"], "none"), name: textOrNull(affinity["name"]) },
    },
    endpoints: list(value["endpoints"], endpoint),
  };
}

function endpoint(value: Fields): Endpoint {
  return {
    name: text(value["name"]),
    address: text(value["address"]),
    weight: count(value["weight"], 1),
    revision: textOrNull(value["revision"]),
    phase: text(value["phase"], "unknown"),
    health: health(value["health"]),
    requests: count(value["requests"]),
    websockets: count(value["websockets"]),
    drain: textOrNull(value["drain"]),
    by_node: list(value["by_node"], nodeCounts),
  };
}

function health(value: unknown): EndpointHealth | null {
  const { verdict, detail } = fields(value);
  return typeof verdict === "string" ? { verdict, detail: text(detail) } : null;
}

function nodeCounts(value: Fields): NodeCounts {
  return { node: text(value["node"]), requests: count(value["requests"]), websockets: count(value["websockets"]) };
}

function node(value: Fields): FleetNode {
  return {
    id: text(value["id"]),
    name: text(value["name"]),
    role: text(value["role"], "unknown"),
    reachable: value["reachable"] === true,
    epoch: count(value["epoch"]),
    admin: textOrNull(value["admin"]),
    self: value["self"] === true,
    last_seen_ms: countOrNull(value["last_seen_ms"]),
    version: text(value["version"]),
    leaving: value["leaving"] === true,
  };
}

function drain(value: Fields): Drain {
  return {
    id: text(value["id"]),
    pool: text(value["pool"]),
    endpoint: text(value["endpoint"]),
    mode: text(value["mode"]),
    state: text(value["state"], "unknown"),
    started_ms: count(value["started_ms"]),
    deadline_ms: countOrNull(value["deadline_ms"]),
    reason: text(value["reason"]),
    requests: count(value["requests"]),
    websockets: count(value["websockets"]),
    event_streams: count(value["event_streams"]),
    sessions: countOrNull(value["sessions"]),
    pace: countOrNull(value["pace"]),
    safe: value["safe"] === true,
    nodes: list(value["nodes"], drainNode),
    missing: Array.isArray(value["missing"]) ? value["missing"].filter((name) => typeof name === "string") : [],
  };
}

function switchover(value: Fields): Switchover {
  return {
    id: text(value["id"]),
    pool: text(value["pool"]),
    from: side(value["from"]),
    to: side(value["to"]),
    stage: text(value["stage"], "unknown"),
    detail: text(value["detail"]),
    reason: text(value["reason"]),
    pace: count(value["pace"]),
    ready: count(value["ready"]),
    min_ready: count(value["min_ready"], 1),
    requests: count(value["requests"]),
    websockets: count(value["websockets"]),
    event_streams: count(value["event_streams"]),
    started_ms: count(value["started_ms"]),
    deadline_ms: countOrNull(value["deadline_ms"]),
  };
}

function side(value: unknown): Side {
  const { revision, endpoints } = fields(value);
  const names = Array.isArray(endpoints) ? endpoints.filter((name) => typeof name === "string") : [];
  return { revision: textOrNull(revision), endpoints: names };
}

function drainNode(value: Fields): DrainNode {
  return { ...nodeCounts(value), reported: value["reported"] === true, epoch: count(value["epoch"]) };
}

function route(value: Fields): Route {
  const spec = fields(value["spec"]);
  return {
    name: text(value["name"]),
    host: textOrNull(spec["host"]),
    path_prefix: text(spec["path_prefix"], "/"),
    pool: text(spec["pool"]),
  };
}
