import { describe, expect, it } from "vitest";
import { parseStatus } from "../src/api/parse";
import type { Drain, Status } from "../src/api/types";
import { command } from "../src/lib/commands";
import * as fleet from "../src/lib/fleet";
import * as format from "../src/lib/format";
import { hashOf, SECTIONS, sectionOf } from "../src/lib/location";

function status(changes: object = {}): Status {
  const node = (name: string, more: object = {}) => ({ id: name, name, role: "follower", reachable: true, epoch: 7, ...more });
  return parseStatus({
    epoch: 7,
    node: "a",
    leader: "b",
    quorum: true,
    nodes: [node("a", { self: true, reachable: false }), node("b"), node("c")],
    ...changes,
  });
}

function drain(changes: object = {}): Drain {
  return parseStatus({ epoch: 1, node: "a", drains: [{ id: "d1", state: "draining", ...changes }] }).drains[0]!;
}

describe("formatting", () => {
  it("groups digits and counts words", () => {
    expect(format.formatCount(1234567)).toBe("1,234,567");
    expect(format.plural(1, "request")).toBe("1 request");
    expect(format.plural(0, "request")).toBe("0 requests");
  });

  it("writes ages with one or two units", () => {
    expect([0, 999].map(format.formatAge)).toEqual(["now", "now"]);
    const cases: [number, string][] = [
      [1_000, "1 s"], [59_999, "59 s"], [60_000, "1 min"], [200_000, "3 min 20 s"], [3_600_000, "1 h"],
      [7_500_000, "2 h 5 min"], [273_600_000, "3 d 4 h"], [-5, "0 s"],
    ];
    for (const [ms, words] of cases) expect(format.formatDuration(ms)).toBe(words);
  });

  it("counts down so that zero means over", () => {
    expect([300_000, 247_000, 1, 0, -9_000, 3_729_000].map(format.formatCountdown)).toEqual(["5:00", "4:07", "0:01", "0:00", "0:00", "1:02:09"]);
  });
});

describe("fleet line", () => {
  it("names leader, epoch and quorum", () => {
    expect(fleet.fleetLine(status())).toEqual({ tone: "ok", headline: "Leader b", facts: ["epoch 7", "quorum, 3 of 3 nodes reachable"] });
  });

  it("says only one thing without quorum", () => {
    expect(fleet.fleetLine(status({ quorum: false, leader: null }))).toEqual({
      tone: "bad",
      headline: "NO QUORUM: serving epoch 7, writes refused",
      facts: [],
    });
  });

  it("tells an election and nodes that are away or behind", () => {
    expect(fleet.fleetLine(status({ leader: null })).headline).toBe("No leader: election in progress");
    const nodes = [{ name: "a", self: true, epoch: 7 }, { name: "b", reachable: false, epoch: 3 }];
    expect(fleet.fleetLine(status({ nodes }))).toMatchObject({ tone: "busy", facts: ["epoch 7", "quorum, 1 of 2 nodes reachable", "1 behind"] });
  });

  it("measures lag from the highest epoch shown, even when another node is ahead", () => {
    const seen = status({ nodes: [{ name: "a", epoch: 7 }, { name: "b", epoch: 9 }] });
    expect(seen.nodes.map((node) => fleet.lag(node, seen))).toEqual([2, 0]);
  });
});

describe("nodes", () => {
  it("ages what it last heard with the status itself", () => {
    const [self, b, c] = status({
      nodes: [{ name: "a", self: true }, { name: "b", reachable: true, last_seen_ms: 120 }, { name: "c", last_seen_ms: 59_000 }],
    }).nodes;
    expect(fleet.lastSeen(self!, 0, false)).toBe("this node");
    expect(fleet.lastSeen(b!, 500, false)).toBe("now");
    expect(fleet.lastSeen(b!, 5_000, false)).toBe("5 s ago");
    expect(fleet.lastSeen(c!, 2_000, false)).toBe("1 min 1 s ago");
    expect(fleet.lastSeen({ ...c!, last_seen_ms: null }, 0, false)).toBe("never seen");
  });

  it("does not age reachable nodes while a live stream has nothing to tell", () => {
    const [b, c] = status({ nodes: [{ name: "b", reachable: true, last_seen_ms: 120 }, { name: "c", last_seen_ms: 59_000 }] }).nodes;
    expect(fleet.lastSeen(b!, 300_000, true)).toBe("now");
    expect(fleet.lastSeen(c!, 2_000, true)).toBe("1 min 1 s ago");
  });

  it("links only to http addresses", () => {
    expect(fleet.adminLink("http://10.0.0.1:9900")).toBe("http://10.0.0.1:9900/");
    for (const address of [null, "", "10.0.0.1:9900", "javascript:alert(1)", "data:text/html,x"]) expect(fleet.adminLink(address)).toBeNull();
  });
});

describe("pools", () => {
  const endpoints = [
    { name: "app-10", address: "10.0.0.5:4000", revision: "v2", phase: "active", by_node: [{ node: "a", requests: 2, websockets: 1 }] },
    { name: "app-2", address: "10.0.0.6:4000", phase: "draining" },
  ];
  const pools = status({ pools: [{ name: "app", endpoints }, { name: "other", endpoints: [] }] }).pools;

  it("filters by every word over all fields", () => {
    const names = (words: string) => fleet.filterPools(pools, words).map((pool) => pool.endpoints.map((endpoint) => endpoint.name));
    expect(names("  ")).toEqual([["app-10", "app-2"], []]);
    expect(names("APP v2")).toEqual([["app-10"]]);
    expect(names("draining 10.0.0.6")).toEqual([["app-2"]]);
    expect(names("nothing")).toEqual([]);
  });

  it("sums phases up in the order of life", () => {
    expect(fleet.phaseSummary(pools[0]!.endpoints)).toBe("1 active, 1 draining");
    expect(fleet.phaseSummary([])).toBe("no endpoints");
  });

  it("never shows a silent node as zero", () => {
    expect(fleet.breakdown(pools[0]!.endpoints[0]!, status().nodes)).toEqual([
      { node: "a", counts: { node: "a", requests: 2, websockets: 1 } },
      { node: "b", counts: null },
      { node: "c", counts: null },
    ]);
  });

  it("orders names as people count", () => {
    expect(["app-10", "app-9", "app-1"].sort(fleet.byName)).toEqual(["app-1", "app-9", "app-10"]);
  });
});

describe("drains", () => {
  it("are safe only when the server says so", () => {
    expect(fleet.drainVerdict(drain({ safe: true })).kind).toBe("safe");
    expect(fleet.drainVerdict(drain({ requests: 0, websockets: 0 })).kind).toBe("running");
    expect(fleet.drainVerdict(drain({ state: "drained" })).kind).toBe("running");
    expect(fleet.drainVerdict(drain({ state: "cancelled", safe: true })).kind).toBe("cancelled");
  });

  it("name the nodes that say nothing", () => {
    const silent = drain({ missing: ["c"], nodes: [{ node: "a", reported: true }, { node: "b", reported: false }, { node: "c", reported: false }] });
    expect(fleet.missingNodes(silent)).toEqual(["b", "c"]);
    expect(fleet.drainVerdict(silent)).toMatchObject({ kind: "waiting", text: "Not safe: no report from b, c" });
  });

  it("fill their bar only when safe", () => {
    expect(fleet.drainProgress(drain({ requests: 5 }), 20)).toBe(0.75);
    expect(fleet.drainProgress(drain(), 20)).toBe(0.99);
    expect(fleet.drainProgress(drain(), 0)).toBe(0);
    expect(fleet.drainProgress(drain({ safe: true }), 0)).toBe(1);
  });

  it("count down only while they run", () => {
    expect(fleet.deadlineLeft(drain({ deadline_ms: 5_000 }), 2_000)).toBe(3_000);
    expect(fleet.deadlineLeft(drain({ deadline_ms: 5_000, state: "drained" }), 2_000)).toBeNull();
    expect(fleet.deadlineLeft(drain(), 2_000)).toBeNull();
  });

  it("stand with the running ones first, then the newest", () => {
    const list = [
      drain({ id: "d1", state: "drained", started_ms: 10 }),
      drain({ id: "d2", started_ms: 5 }),
      drain({ id: "d3", state: "cancelled", started_ms: 20 }),
    ];
    expect(fleet.orderDrains(list).map(({ id }) => id)).toEqual(["d2", "d3", "d1"]);
  });
});

describe("trail", () => {
  const at = (requests: number) =>
    status({
      pools: [{ name: "app", endpoints: [{ name: "e", requests, websockets: 1 }] }],
      drains: [{ id: "d1", state: "draining", requests }],
    });

  it("remembers the peak of a drain and the last two minutes", () => {
    let trail = fleet.EMPTY_TRAIL;
    for (let second = 0; second < 300; second += 0.25) trail = fleet.extendTrail(trail, at(second < 10 ? 50 : 3), second * 1_000);
    expect(trail.drains.get("d1")?.peak).toBe(50);
    const series = trail.pools.get("app")!;
    expect(series.length).toBeLessThanOrEqual(122);
    expect(series.length).toBeGreaterThan(100);
    expect(series.at(-1)).toEqual({ at: 299_750, value: 4 });
  });

  it("forgets what the status no longer names", () => {
    const trail = fleet.extendTrail(fleet.extendTrail(fleet.EMPTY_TRAIL, at(1), 0), status(), 1_000);
    expect([trail.pools.size, trail.drains.size]).toEqual([0, 0]);
  });
});

describe("places", () => {
  it("round-trips every section and falls back to the overview", () => {
    for (const section of SECTIONS) expect(sectionOf(hashOf(section))).toBe(section);
    for (const hash of ["", "#", "#/", "#/nowhere"]) expect(sectionOf(hash)).toBe("overview");
  });

  it("names the API in a command only when it is not the default", () => {
    expect(command("node list", "http://127.0.0.1:9900")).toBe("tidelock node list");
    expect(command("node list", "https://lb.example.com")).toBe("tidelock --api https://lb.example.com node list");
  });
});
