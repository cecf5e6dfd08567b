// phoenix.js through a drain: what its users notice of it, and what they would without a balancer that says 1012.
//
//   TIDELOCK_ADMIN_URL   a node's admin address
//   TIDELOCK_URL         where it takes clients, as ws://host:port
//
// The endpoints here speak Phoenix's channel protocol (version 2: arrays of join reference, reference, topic, event and
// payload) as far as a join and a heartbeat need. The clients are the npm packages as browsers get them: the
// newest, and a 1.7, which takes a close with 1000 for the end (1.8.16 comes back from that too).

import { createServer } from "node:http";
import { Socket as Newest } from "phoenix";
import { Socket as Before } from "phoenix-1.7";
import { WebSocket, WebSocketServer } from "ws";

const SOCKETS = 24;
const PACE = 40;
const STEP_MS = 20_000;
const admin = process.env.TIDELOCK_ADMIN_URL;

class Endpoint {
  static async listen(name) {
    const endpoint = new Endpoint();
    endpoint.name = name;
    endpoint.heartbeats = 0;
    endpoint.http = createServer((_, response) => response.writeHead(404).end());
    endpoint.server = new WebSocketServer({ server: endpoint.http });
    endpoint.server.on("connection", (socket) => socket.on("message", (text) => endpoint.answer(socket, text)));
    await new Promise((resolve) => endpoint.http.listen(0, "127.0.0.1", resolve));
    endpoint.address = `127.0.0.1:${endpoint.http.address().port}`;
    return endpoint;
  }

  answer(socket, text) {
    const [joined, reference, topic, event] = JSON.parse(text);
    if (event === "heartbeat") this.heartbeats += 1;
    const reply = { status: "ok", response: { endpoint: this.name } };
    socket.send(JSON.stringify([joined, reference, topic, "phx_reply", reply]));
  }

  /// As Phoenix on Bandit does when it is told to end.
  closeAll() {
    for (const socket of this.server.clients) socket.close(1000);
  }
}

/// A page: a socket, and a channel that is joined again whenever the socket is back.
class Page {
  constructor(url, number, Socket = number % 2 ? Newest : Before) {
    this.codes = [];
    this.homes = [];
    this.backAfter = [];
    this.socket = new Socket(`${url}/live`, { transport: WebSocket, heartbeatIntervalMs: 300 });
    this.socket.onClose((event) => {
      this.codes.push(event.code);
      this.closed = performance.now();
    });
    this.socket.connect();
    this.channel = this.socket.channel(`room:${number}`);
    this.channel.join().receive("ok", ({ endpoint }) => {
      this.homes.push(endpoint);
      if (this.closed) this.backAfter.push(performance.now() - this.closed);
    });
  }

  leave() {
    return new Promise((resolve) => this.socket.disconnect(resolve));
  }
}

async function call(method, path, body) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(new URL(path, admin), { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  check(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return JSON.parse(text);
}

function check(is, what) {
  if (!is) throw new Error(what);
}

async function until(what, is) {
  const end = performance.now() + STEP_MS;
  while (!is()) {
    check(performance.now() < end, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const put = (endpoint) =>
  call("PUT", `/v1/pools/phoenix/endpoints/${endpoint.name}`, { address: endpoint.address });
const everyone = (pages, is) => pages.every(is);

const [first, second, third] = await Promise.all(["live-1", "live-2", "live-3"].map(Endpoint.listen));
await call("PUT", "/v1/pools/phoenix", {});
await put(first);
await call("PUT", "/v1/routes/phoenix?wait=fleet", { pool: "phoenix", path_prefix: "/live", profile: "phoenix" });
const pages = Array.from({ length: SOCKETS }, (_, number) => new Page(process.env.TIDELOCK_URL, number));
await until("all have joined", () => everyone(pages, ({ homes }) => homes.length === 1));
await until("heartbeats pass", () => first.heartbeats >= SOCKETS);

// The balancer closes them at the pace: each comes back by itself, once, and joins again.
await put(second);
const begin = performance.now();
const { drain } = await call("POST", "/v1/pools/phoenix/endpoints/live-1/drain", { pace: PACE });
const safe = await call("GET", `/v1/drains/${drain}?wait=safe`);
const took = performance.now() - begin;
check(first.server.clients.size === 0, "safe means that nobody is left");
await until("all have joined again", () => everyone(pages, ({ homes }) => homes.length === 2));
check(everyone(pages, ({ homes }) => homes[1] === "live-2"), "they are on the other endpoint");
check(everyone(pages, ({ codes }) => codes.join() === "1012"), `closed with 1012, once: ${pages.map((p) => p.codes)}`);
check(took > (SOCKETS / PACE) * 1_000 * 0.9, `${took} ms is faster than the pace: ${JSON.stringify(safe)}`);

// The endpoint closes them itself, with 1000, while it drains: they are told 1012 and come back all the same.
await put(third);
await call("POST", "/v1/pools/phoenix/endpoints/live-2/drain?wait=fleet", { pace: 0 });
second.closeAll();
await until("all have joined a third time", () => everyone(pages, ({ homes }) => homes.length === 3));
check(everyone(pages, ({ homes, codes }) => homes[2] === "live-3" && codes[1] === 1012), "1000 became 1012");
const backAfter = pages.flatMap((page) => page.backAfter).sort((a, b) => a - b);
const p95 = backAfter[Math.floor(backAfter.length * 0.95)];
check(p95 < 1_000, `p95 of coming back is ${p95} ms`);
await Promise.all(pages.map((page) => page.leave()));

// Without the balancer the same close is the end for many pages that are out there: 1000 is a farewell to them.
const alone = new Page(`ws://${third.address}`, 0, Before);
await until("it has joined", () => alone.homes.length === 1);
third.closeAll();
await until("it is closed", () => alone.codes.length === 1);
// Longer than its first five pauses together (10, 50, 100, 150 and 200 ms).
await new Promise((resolve) => setTimeout(resolve, 1_500));
check(alone.codes[0] === 1000 && alone.homes.length === 1 && !alone.socket.isConnected(), "it stays away");
console.log(`phoenix.js ${SOCKETS} pages, drained in ${Math.round(took)} ms, back after ${Math.round(p95)} ms (p95)`);
process.exit(0);
