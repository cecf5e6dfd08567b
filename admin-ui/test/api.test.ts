import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { backoffMs } from "../src/api/backoff";
import { Feed, type Connection } from "../src/api/feed";
import { Api, ApiError, newKey, readOutcome, type Answer } from "../src/api/http";
import { parseStatus } from "../src/api/parse";
import { SseParser } from "../src/api/sse";
import type { Status } from "../src/api/types";
import { sideOf, startDrain, startSwitchover } from "../src/api/writes";

const STATUS = { epoch: 7, node: "a", leader: "b", quorum: true, pools: [], nodes: [], drains: [], routes: [] };

describe("back-off", () => {
  it("doubles from half a second up to fifteen", () => {
    expect([0, 1, 2, 3, 4, 5, 6].map((failures) => backoffMs(failures, 0))).toEqual([500, 1000, 2000, 4000, 8000, 15000, 15000]);
  });

  it("takes at most half away at random and stays finite", () => {
    expect(backoffMs(2, 1)).toBe(1000);
    expect(backoffMs(100_000, 0)).toBe(15_000);
    expect(backoffMs(-1, 0)).toBe(500);
  });
});

describe("event stream parser", () => {
  const text = '\uFEFF: hello\r\nevent: status\r\nid: 7\r\ndata: {"a":\r\ndata:1}\r\n\r\n: heartbeat\n\ndata: x\n\nevent: left\rdata\r\rdata: cut off';
  const expected = [
    { event: "status", id: "7", data: '{"a":\n1}' },
    { event: "message", id: "7", data: "x" },
    { event: "left", id: "7", data: "" },
  ];

  it("reads a whole stream", () => {
    expect(new SseParser().push(text)).toEqual(expected);
  });

  it("finds the same events wherever the stream is cut", () => {
    for (let first = 0; first < text.length; first += 1) {
      for (let second = first; second < text.length; second += 7) {
        const parser = new SseParser();
        const events = [text.slice(0, first), text.slice(first, second), text.slice(second)].flatMap((part) => parser.push(part));
        expect(events).toEqual(expected);
      }
    }
    const parser = new SseParser();
    expect([...text].flatMap((character) => parser.push(character))).toEqual(expected);
  });

  it("gives up on an event without end", () => {
    const parser = new SseParser();
    const line = `data: ${"x".repeat(1 << 20)}\n`;
    expect(() => Array.from({ length: 20 }, () => parser.push(line))).toThrow("larger than 16 MiB");
  });
});

describe("status parser", () => {
  it("refuses what is not a status", () => {
    for (const other of [null, [], "x", {}, { epoch: "7", node: "a" }]) expect(() => parseStatus(other)).toThrow("not a Tidelock status");
  });

  it("survives fields that another version leaves out", () => {
    const status = parseStatus({ epoch: 7, node: "a", pools: [{ name: "p", endpoints: [{ name: "e" }] }], drains: [{ id: "d1" }], routes: [{}] });
    expect(status.quorum).toBe(false);
    expect(status.pools[0]?.endpoints[0]).toMatchObject({ phase: "unknown", weight: 1, by_node: [], drain: null, health: null });
    expect(status.drains[0]).toMatchObject({ safe: false, missing: [], deadline_ms: null, pace: null });
    expect(status.switchovers).toEqual([]);
    expect(status.routes[0]).toMatchObject({ host: null, path_prefix: "/" });
  });
});

describe("switchovers", () => {
  it("are read with either kind of side", () => {
    const json = { id: "s9", from: { revision: "v1" }, to: { endpoints: ["a", 7] }, stage: "waiting", min_ready: 3 };
    const status = parseStatus({ epoch: 7, node: "a", switchovers: [json] });
    const sides = { from: { revision: "v1", endpoints: [] }, to: { revision: null, endpoints: ["a"] } };
    expect(status.switchovers[0]).toMatchObject({ ...sides, stage: "waiting", ready: 0, min_ready: 3, deadline_ms: null });
  });
});

describe("outcomes of writes", () => {
  const answer = (status: number, body: unknown) => readOutcome(new Response(JSON.stringify(body), { status }));

  it("says applied only for an applied outcome", async () => {
    expect(await answer(200, { outcome: "applied", epoch: 9, drain: "d9" })).toEqual({ kind: "applied", epoch: 9, drain: "d9" });
    expect((await answer(200, { ok: true })).kind).toBe("unknown");
  });

  it("keeps the problem's words and fields", async () => {
    const problems = [{ field: "mode", detail: "not a mode" }];
    expect(await answer(422, { title: "Invalid", detail: "One problem.", problems })).toEqual({
      kind: "rejected",
      status: 422,
      problem: { title: "Invalid", detail: "One problem.", fields: problems },
    });
  });

  it("never calls a server's failure a rejection", async () => {
    for (const status of [500, 502, 503, 504]) expect((await answer(status, { title: "x" })).kind).toBe("unknown");
    expect((await readOutcome(new Response("<html>", { status: 502 }))).kind).toBe("unknown");
  });

  it("is unknown when the answer is lost or cannot be read", async () => {
    const lost = new Api("http://node/", () => Promise.reject(new TypeError("Failed to fetch")));
    const action = startDrain("p", "e", { mode: "streams", deadline_seconds: null, reason: " ", pace: 7 });
    expect(await lost.write(action)).toMatchObject({ kind: "unknown", problem: { detail: "The node cannot be reached." } });
    const garbled = new Api("http://node/", () => Promise.resolve(new Response("{")));
    expect((await garbled.write(action)).kind).toBe("unknown");
  });

  it("sends the token, the key and only the fields that were filled in", async () => {
    const sent: { url: string; init: RequestInit }[] = [];
    const api = new Api("http://node/ui/", (url, init) => {
      sent.push({ url: String(url), init: init ?? {} });
      return Promise.resolve(new Response(JSON.stringify({ outcome: "applied", epoch: 1 })));
    });
    api.token = "tide";
    const action = startDrain("p q", "e", { mode: "sessions", deadline_seconds: null, reason: " ", pace: null });
    await api.write(action);
    await api.write(action);
    const headers = sent.map(({ init }) => init.headers as Headers);
    expect(sent[0]?.url).toBe("http://node/ui/v1/pools/p%20q/endpoints/e/drain");
    expect(sent[0]?.init.body).toBe('{"mode":"sessions"}');
    expect(headers[0]?.get("authorization")).toBe("Bearer tide");
    expect(headers[0]?.get("idempotency-key")).toBe(action.key);
    expect(headers[1]?.get("idempotency-key")).toBe(action.key);
  });

  it("rehearses a switchover without a key, and takes no other word for yes", async () => {
    const sent: { url: string; init: RequestInit }[] = [];
    let word = "would-apply";
    const api = new Api("http://node/", (url, init) => {
      sent.push({ url: String(url), init: init ?? {} });
      return Promise.resolve(new Response(JSON.stringify({ outcome: word, epoch: 1 })));
    });
    const request = { pace: null, min_ready: 2, wait_seconds: null, max_error_percent: 0 };
    const action = startSwitchover("p", { from: sideOf("v1", ["x"]), to: sideOf("", ["e"]), ...request });
    expect((await api.rehearse(action)).kind).toBe("applied");
    expect(sent[0]?.url).toBe("http://node/v1/pools/p/switchovers?dry_run=true");
    expect(JSON.parse(String(sent[0]?.init.body))).toEqual({ from: { revision: "v1" }, to: { endpoints: ["e"] }, min_ready: 2, max_error_percent: 0 });
    expect((sent[0]?.init.headers as Headers).get("idempotency-key")).toBe(null);
    expect((await api.write(action)).kind).toBe("unknown");
    word = "applied";
    expect((await api.rehearse(action)).kind).toBe("unknown");
  });

  it("makes version 4 keys that differ", () => {
    expect(newKey()).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(newKey()).not.toBe(newKey());
  });
});

describe("feed", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  /** A node whose streams and answers the test decides on. */
  class Node {
    controllers: ReadableStreamDefaultController<Uint8Array>[] = [];
    opened = 0;
    polls = 0;
    streams: "open" | "fail" | "unauthorized" = "open";
    status_: "ok" | "fail" | "unauthorized" = "ok";
    statusDelay = 0;

    events = (signal: AbortSignal): Promise<Response> => {
      this.opened += 1;
      if (this.streams === "fail") return Promise.reject(new TypeError("Failed to fetch"));
      if (this.streams === "unauthorized") return Promise.reject(unauthorized());
      const body = new ReadableStream<Uint8Array>({
        start: (controller) => {
          this.controllers.push(controller);
          signal.addEventListener("abort", () => controller.error(signal.reason));
        },
      });
      return Promise.resolve(new Response(body, { headers: { "content-type": "text/event-stream" } }));
    };

    status = async (): Promise<Answer> => {
      this.polls += 1;
      const polls = this.polls;
      await new Promise((resolve) => setTimeout(resolve, this.statusDelay));
      if (this.status_ === "fail") throw new TypeError("Failed to fetch");
      if (this.status_ === "unauthorized") throw unauthorized();
      return { json: { ...STATUS, epoch: 100 + polls }, serverTime: null };
    };

    send(text: string) {
      this.controllers.at(-1)?.enqueue(new TextEncoder().encode(text));
    }

    sendStatus(epoch: number) {
      this.send(`event: status\nid: ${epoch}\ndata: ${JSON.stringify({ ...STATUS, epoch })}\n\n`);
    }
  }

  const unauthorized = () => new ApiError(401, { title: "Unauthorized", detail: "", fields: [] });

  function watch(node: Node) {
    const seen = { states: [] as string[], connection: null as Connection | null, statuses: [] as Status[] };
    const feed = new Feed(
      node,
      {
        onStatus: (status) => seen.statuses.push(status),
        onServerTime: () => {},
        onConnection: (connection) => {
          seen.connection = connection;
          if (seen.states.at(-1) !== connection.state) seen.states.push(connection.state);
        },
      },
      () => 0,
    );
    feed.start();
    return { feed, seen };
  }

  const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

  it("goes live on the first event and does not poll beside it", async () => {
    const node = new Node();
    const { seen } = watch(node);
    await pass(100);
    node.sendStatus(7);
    await pass(20_000);
    expect(seen.connection?.state).toBe("live");
    expect(seen.statuses.map((status) => status.epoch)).toEqual([7]);
    expect(node.polls).toBe(0);
  });

  it("shows a status by polling when an open stream brings none", async () => {
    const node = new Node();
    const { seen } = watch(node);
    await pass(1_200);
    expect(seen.connection?.state).toBe("polling");
    expect(seen.statuses).toHaveLength(1);
    node.sendStatus(7);
    await pass(10_000);
    expect(seen.connection?.state).toBe("live");
    expect(node.polls).toBe(1);
  });

  it("drops a polled answer that the stream has overtaken", async () => {
    const node = new Node();
    node.statusDelay = 3_000;
    const { seen } = watch(node);
    await pass(2_000);
    expect(node.polls).toBe(1);
    node.sendStatus(200);
    await pass(10_000);
    expect(seen.statuses.map((status) => status.epoch)).toEqual([200]);
    expect(seen.connection?.state).toBe("live");
    expect(node.polls).toBe(1);
  });

  it("polls while streams fail and returns to live when they work again", async () => {
    const node = new Node();
    node.streams = "fail";
    const { seen } = watch(node);
    await pass(30_000);
    expect(seen.connection).toMatchObject({ state: "polling", reason: "The node cannot be reached." });
    expect(node.polls).toBeGreaterThan(10);
    expect(node.opened).toBeLessThan(8);
    node.streams = "open";
    await pass(15_000);
    node.sendStatus(200);
    await pass(100);
    expect(seen.connection?.state).toBe("live");
    const polls = node.polls;
    await pass(10_000);
    expect(node.polls).toBe(polls);
  });

  it("reconnects at once after a healthy stream ends", async () => {
    const node = new Node();
    const { seen } = watch(node);
    node.sendStatus(7);
    await pass(6_000);
    node.controllers[0]?.close();
    await pass(0);
    expect(seen.connection?.state).toBe("connecting");
    await pass(600);
    expect(node.opened).toBe(2);
  });

  it("backs off from a node that ends every stream at once", async () => {
    const node = new Node();
    watch(node);
    for (let tenth = 0; tenth < 300; tenth += 1) {
      const controller = node.controllers.pop();
      if (controller) {
        controller.enqueue(new TextEncoder().encode(`event: status\ndata: ${JSON.stringify(STATUS)}\n\n`));
        controller.close();
      }
      await pass(100);
    }
    expect(node.opened).toBeLessThan(8);
  });

  it("takes heartbeats as life and gives up a silent stream", async () => {
    const node = new Node();
    const { seen } = watch(node);
    node.sendStatus(7);
    for (let beat = 0; beat < 6; beat += 1) {
      await pass(10_000);
      node.send(": heartbeat\n\n");
    }
    expect(node.opened).toBe(1);
    await pass(25_000);
    expect(seen.connection?.reason).toBe("The stream fell silent.");
    await pass(1_000);
    expect(node.opened).toBe(2);
  });

  it("is offline when nothing answers", async () => {
    const node = new Node();
    node.streams = "fail";
    node.status_ = "fail";
    const { seen, feed } = watch(node);
    await pass(5_000);
    expect(seen.connection?.state).toBe("offline");
    const opened = node.opened;
    feed.retryNow();
    await pass(0);
    expect(node.opened).toBe(opened + 1);
  });

  it("stops at 401 until it is started again", async () => {
    const node = new Node();
    node.streams = "unauthorized";
    const { seen, feed } = watch(node);
    await pass(60_000);
    expect(seen.states).toEqual(["paused", "connecting", "unauthorized"]);
    expect([node.opened, node.polls]).toEqual([1, 0]);
    node.streams = "open";
    feed.start();
    await pass(10);
    node.sendStatus(7);
    await pass(10);
    expect(seen.connection?.state).toBe("live");
  });

  it("says nothing more after it was stopped", async () => {
    const node = new Node();
    const { seen, feed } = watch(node);
    node.sendStatus(7);
    await pass(10);
    feed.stop();
    const before = seen.statuses.length;
    await pass(60_000);
    expect(seen.connection?.state).toBe("paused");
    expect([seen.statuses.length, node.opened, node.polls]).toEqual([before, 1, 0]);
  });
});
