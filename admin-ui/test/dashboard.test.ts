import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { startDrain } from "../src/api/writes";
import { Dashboard } from "../src/lib/dashboard.svelte";

const STATUS = { epoch: 7, node: "a", leader: "b", quorum: true, pools: [], nodes: [], drains: [], routes: [] };

/** A node that answers polls but has no stream; it counts what it is asked. */
function quietNode() {
  const node = { asked: 0, date: "", writeStatus: 200 };
  const fetch = ((url: URL, init: RequestInit) => {
    node.asked += 1;
    if (init.method) {
      const body = node.writeStatus === 200 ? { outcome: "applied", epoch: 8 } : { title: "No leader" };
      return Promise.resolve(new Response(JSON.stringify(body), { status: node.writeStatus }));
    }
    if (url.pathname === "/v1/events") return Promise.reject(new TypeError("Failed to fetch"));
    const headers = node.date === "" ? {} : { date: node.date };
    return Promise.resolve(new Response(JSON.stringify(STATUS), { headers }));
  }) as unknown as typeof globalThis.fetch;
  return { node, fetch };
}

function memory(): Storage {
  const kept = new Map<string, string>();
  return {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => void kept.set(key, value),
    removeItem: (key: string) => void kept.delete(key),
  } as Storage;
}

const drain = () => startDrain("p", "e", { mode: "streams", deadline_seconds: 60, reason: "", pace: 0 });
const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

describe("dashboard", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("gives its connections back while hidden and takes them up when seen", async () => {
    const { node, fetch } = quietNode();
    const dashboard = new Dashboard("http://node/", fetch, memory());
    const stop = dashboard.run();
    await pass(5_000);
    dashboard.visibility(true);
    await pass(10_000);
    dashboard.visibility(false);
    await pass(30_000);
    expect(dashboard.connection.state).toBe("polling");
    dashboard.visibility(true);
    await pass(31_000);
    expect(dashboard.connection.state).toBe("paused");
    const asked = node.asked;
    await pass(60_000);
    expect(node.asked).toBe(asked);
    dashboard.visibility(false);
    await pass(2_000);
    expect(dashboard.connection.state).toBe("polling");
    stop();
  });

  it("counts deadlines by the fleet's clock, but ignores the Date header's own coarseness", async () => {
    const { node, fetch } = quietNode();
    vi.setSystemTime(1_800_000_000_900);
    node.date = new Date(1_800_000_000_000).toUTCString();
    const dashboard = new Dashboard("http://node/", fetch, memory());
    const stop = dashboard.run();
    await pass(1_100);
    expect(dashboard.skew).toBe(0);
    node.date = new Date(1_800_000_100_000).toUTCString();
    await pass(4_000);
    expect(dashboard.skew).toBeGreaterThan(90_000);
    stop();
  });

  it("lists one write once, repeated or not, and lets go of it only when it was applied", async () => {
    const { node, fetch } = quietNode();
    const dashboard = new Dashboard("http://node/", fetch, memory());
    const action = drain();
    node.writeStatus = 503;
    await dashboard.write("Drain p/e", action);
    await pass(60_000);
    expect(dashboard.writes.map((write) => write.outcome?.kind)).toEqual(["unknown"]);
    node.writeStatus = 200;
    await dashboard.write("Drain p/e", action);
    expect(dashboard.writes.map((write) => write.outcome?.kind)).toEqual(["applied"]);
    await pass(12_000);
    expect(dashboard.writes).toEqual([]);
  });

  it("asks for a token when a write is refused for want of one", async () => {
    const { node, fetch } = quietNode();
    const dashboard = new Dashboard("http://node/", fetch, memory());
    node.writeStatus = 401;
    await dashboard.write("Drain p/e", drain());
    expect([dashboard.tokenWanted, dashboard.tokenRefused]).toEqual([true, false]);
  });
});
