// A stand-in for one Tidelock node, for developing the dashboard and for its own browser scenarios. It speaks
// the Admin API's JSON and serves dist/, but balances nothing and agrees with nobody: passing against it says
// nothing about Tidelock itself. The end-to-end test runs dashboard.mjs against real nodes.
//
//   node test/mock.mjs [--port 9900] [--scenario NAME]
//   scenarios: fleet (default), empty, no-quorum, token (the token is "tide"), polling (no event stream),
//              rejecting (writes get 422), unknown (the first write of each key gets 503), missing (node c is away)

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Starts a mock and resolves with `{url, fleet, dropStreams, close}`. `tick_ms` is the pace of its made-up traffic. */
export async function startMock({ port = 0, scenario = "fleet", tick_ms = 500 } = {}) {
  const fleet = makeFleet(scenario);
  const streams = new Set();
  const keys = new Map();
  let streamsAllowed = scenario !== "polling";

  const publish = () => {
    for (const stream of streams) stream.write(event(fleet));
  };
  const traffic = setInterval(() => {
    if (scenario !== "no-quorum" && scenario !== "empty") move(fleet);
    publish();
  }, tick_ms);
  const heartbeat = setInterval(() => {
    for (const stream of streams) stream.write(": heartbeat\n\n");
  }, 10_000);

  const server = createServer((request, response) => {
    answer(request, response).catch((error) => problem(response, 500, "Mock failed", String(error)));
  });

  async function answer(request, response) {
    const url = new URL(request.url, "http://mock");
    if (!url.pathname.startsWith("/v1/")) return serveFile(url.pathname, response);
    response.setHeader("tidelock-epoch", fleet.epoch);
    if (scenario === "token" && request.headers.authorization !== "Bearer tide") {
      return problem(response, 401, "Unauthorized", "This node's Admin API needs a bearer token.");
    }
    if (request.method === "GET" && url.pathname === "/v1/status") return json(response, 200, snapshot(fleet));
    if (request.method === "GET" && url.pathname === "/v1/events") {
      if (!streamsAllowed) return problem(response, 502, "Bad Gateway", "A proxy in the way does not pass streams.");
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
      response.write(event(fleet));
      streams.add(response);
      response.on("close", () => streams.delete(response));
      return;
    }
    const drain = /^\/v1\/pools\/([^/]+)\/endpoints\/([^/]+)\/drain$/.exec(url.pathname);
    if (drain && (request.method === "POST" || request.method === "DELETE")) {
      const [pool, endpoint] = drain.slice(1).map(decodeURIComponent);
      return write(request, response, () =>
        request.method === "POST" ? beginDrain(fleet, pool, endpoint, request.body) : cancelDrain(fleet, pool, endpoint),
      );
    }
    return problem(response, 404, "Not Found", `${request.method} ${url.pathname} is not part of this mock.`);
  }

  async function write(request, response, apply) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    request.body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {};
    const key = request.headers["idempotency-key"];
    if (scenario === "no-quorum") {
      return problem(response, 503, "No leader", "The write may or may not have happened; repeat it with the same Idempotency-Key.");
    }
    if (scenario === "rejecting") {
      return problem(response, 422, "Invalid drain", "The request has one problem.", [
        { field: "deadline_seconds", detail: "must be at most 86400" },
      ]);
    }
    const settled = keys.get(key);
    if (scenario === "unknown" && settled === undefined) {
      keys.set(key, null);
      return problem(response, 503, "Leader lost", "The write may or may not have happened; repeat it with the same Idempotency-Key.");
    }
    const result = settled ?? apply();
    if (result.status) return problem(response, result.status, result.title, result.detail);
    keys.set(key, result);
    json(response, 200, result);
    publish();
  }

  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  return {
    url,
    fleet,
    publish,
    /** Ends every stream; with `false`, also refuses new ones until called with `true`. */
    dropStreams(allowNew) {
      streamsAllowed = allowNew;
      for (const stream of streams) stream.end();
    },
    openStreams: () => streams.size,
    close() {
      clearInterval(traffic);
      clearInterval(heartbeat);
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

function makeFleet(scenario) {
  const empty = scenario === "empty";
  const names = empty ? ["a"] : ["a", "b", "c"];
  const away = scenario === "no-quorum" ? ["b", "c"] : scenario === "missing" ? ["c"] : [];
  const endpoint = (name, host, revision, weight = 1) => ({
    name, address: `10.0.${host}:4000`, weight, revision, phase: "active", drain: null,
    by_node: names.filter((node) => !away.includes(node)).map((node) => ({ node, requests: 0, websockets: 0 })),
  });
  const busy = (made, websockets) => {
    made.by_node.forEach((counts, index) => Object.assign(counts, { requests: 3 + index * 2, websockets: websockets + index }));
    return made;
  };
  return {
    epoch: empty ? 3 : 1_041,
    node: "a",
    leader: scenario === "no-quorum" ? null : empty ? "a" : "b",
    quorum: scenario !== "no-quorum",
    nextDrain: 1_042,
    nodes: names.map((name, index) => ({
      id: `9f3c0${index}d1a7e24b${index}`, name, reachable: !away.includes(name),
      role: name === "b" && scenario !== "no-quorum" ? "leader" : empty ? "leader" : "follower",
      epoch: empty ? 3 : name === "c" && away.length > 0 ? 1_032 : 1_041,
      admin: `http://127.0.0.1:${9900 + index}`, self: name === "a",
      last_seen_ms: name === "a" ? 0 : away.includes(name) ? 74_000 : 120, version: "0.1.0", leaving: false,
    })),
    pools: empty ? [] : [
      { name: "demo", spec: { protocol: "h2c", affinity: { kind: "cookie" } }, endpoints: [
        busy(endpoint("demo-1", "1.11", "7d9f6c5b8", 1), 12), busy(endpoint("demo-2", "2.14", "7d9f6c5b8", 1), 9),
        busy(endpoint("demo-3", "3.9", "84c6b9d77", 2), 31), busy(endpoint("demo-10", "3.22", "84c6b9d77", 1), 1_204) ] },
      { name: "assets", spec: { protocol: "http1", affinity: { kind: "header", name: "x-user" } }, endpoints: [
        busy(endpoint("assets-1", "4.5", null), 0), busy(endpoint("assets-2", "4.6", null), 0) ] },
      { name: "staging", spec: {}, endpoints: [] },
    ],
    routes: empty ? [] : [
      { name: "web", spec: { host: "app.example.com", path_prefix: "/", pool: "demo" } },
      { name: "static", spec: { host: "app.example.com", path_prefix: "/assets", pool: "assets" } },
      { name: "wild", spec: { host: "*.staging.example.com", path_prefix: "/", pool: "staging" } },
      { name: "rest", spec: { host: null, path_prefix: "/", pool: "demo" } },
    ],
    drains: empty ? [] : [
      { id: "d1032", pool: "demo", endpoint: "demo-2", mode: "sessions", state: "cancelled", started_ms: Date.now() - 5_400_000,
        deadline_ms: Date.now() - 5_100_000, reason: "wrong pod", safe: false },
    ],
  };
}

function snapshot(fleet) {
  const sums = (rows) => ({ requests: sum(rows, "requests"), websockets: sum(rows, "websockets") });
  const away = fleet.nodes.filter((node) => !node.reachable).map((node) => node.name);
  return {
    epoch: fleet.epoch, node: fleet.node, leader: fleet.leader, quorum: fleet.quorum, nodes: fleet.nodes, routes: fleet.routes,
    pools: fleet.pools.map((pool) => ({
      ...pool, endpoints: pool.endpoints.map((endpoint, id) => ({ ...endpoint, id, ...sums(endpoint.by_node) })),
    })),
    drains: fleet.drains.map((drain) => {
      const endpoint = find(fleet, drain.pool, drain.endpoint);
      const nodes = drain.state === "cancelled" ? [] : endpoint.by_node.map((row) => ({ ...row, reported: true, epoch: fleet.epoch }));
      return { ...drain, nodes, missing: drain.state === "cancelled" ? [] : away, ...sums(nodes) };
    }),
  };
}

/** One tick: traffic goes up and down on active endpoints and only down on draining ones. */
function move(fleet) {
  const away = fleet.nodes.some((node) => !node.reachable);
  for (const endpoint of fleet.pools.flatMap((pool) => pool.endpoints)) {
    for (const row of endpoint.by_node) {
      if (endpoint.phase === "active") {
        row.requests = Math.max(0, row.requests + Math.round(Math.random() * 4 - 2));
      } else {
        row.requests = Math.max(0, row.requests - 1);
        row.websockets = Math.max(0, row.websockets - Math.ceil(row.websockets / 6));
      }
    }
    const empty = endpoint.by_node.every((row) => row.requests + row.websockets === 0);
    if (endpoint.phase === "draining" && empty && !away) {
      fleet.epoch += 1;
      endpoint.phase = "drained";
      const drain = fleet.drains.find((candidate) => candidate.id === endpoint.drain);
      Object.assign(drain, { state: "drained", safe: true });
    }
  }
  for (const node of fleet.nodes) if (node.reachable) node.epoch = fleet.epoch;
}

function beginDrain(fleet, pool, name, { mode = "streams", deadline_seconds, reason = "" }) {
  const endpoint = find(fleet, pool, name);
  if (!endpoint) return { status: 404, title: "No such endpoint", detail: `Pool ${pool} has no endpoint ${name}.` };
  if (endpoint.phase !== "active") return { status: 409, title: "Already draining", detail: `${name} is ${endpoint.phase}.` };
  fleet.epoch += 1;
  const id = `d${fleet.epoch}`;
  const now = Date.now();
  Object.assign(endpoint, { phase: "draining", drain: id });
  fleet.drains.push({ id, pool, endpoint: name, mode, state: "draining", started_ms: now, reason, safe: false,
    deadline_ms: deadline_seconds === undefined ? null : now + deadline_seconds * 1_000 });
  return { outcome: "applied", epoch: fleet.epoch, drain: id };
}

function cancelDrain(fleet, pool, name) {
  const endpoint = find(fleet, pool, name);
  if (!endpoint?.drain) return { status: 409, title: "No drain", detail: `${name} is not draining.` };
  fleet.epoch += 1;
  Object.assign(fleet.drains.find((drain) => drain.id === endpoint.drain), { state: "cancelled", safe: false });
  Object.assign(endpoint, { phase: "active", drain: null });
  return { outcome: "applied", epoch: fleet.epoch };
}

function find(fleet, pool, name) {
  return fleet.pools.find((candidate) => candidate.name === pool)?.endpoints.find((endpoint) => endpoint.name === name);
}

function sum(rows, field) {
  return rows.reduce((total, row) => total + row[field], 0);
}

function event(fleet) {
  return `event: status\nid: ${fleet.epoch}\ndata: ${JSON.stringify(snapshot(fleet))}\n\n`;
}

function json(response, status, body, type = "application/json") {
  response.writeHead(status, { "content-type": type });
  response.end(JSON.stringify(body));
}

function problem(response, status, title, detail, problems) {
  json(response, status, { type: "about:blank", title, status, detail, problems }, "application/problem+json");
}

async function serveFile(path, response) {
  const name = path === "/" ? "index.html" : path.slice(1);
  try {
    if (name.includes("..")) throw new Error("outside dist");
    const content = await readFile(DIST + name);
    response.writeHead(200, {
      "content-type": TYPES[extname(name)] ?? "application/octet-stream",
      "content-security-policy": POLICY,
      "x-content-type-options": "nosniff",
    });
    response.end(content);
  } catch {
    problem(response, 404, "Not Found", `${path} is not in dist/; was the dashboard built?`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const option = (name, otherwise) => {
    const at = process.argv.indexOf(`--${name}`);
    return at < 0 ? otherwise : process.argv[at + 1];
  };
  const mock = await startMock({ port: Number(option("port", "9900")), scenario: option("scenario", "fleet") });
  console.log(`mock node at ${mock.url}`);
}
