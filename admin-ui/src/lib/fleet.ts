// What the page says about a status: pure functions from the API's JSON to words, orders and sums, and the
// reducer that adds what one status alone cannot tell (the recent past).

import type { Affinity, Counts, Drain, DrainNode, Endpoint, FleetNode, NodeCounts, Pool, Status } from "../api/types";
import { formatAge, plural } from "./format";

export type Tone = "ok" | "busy" | "bad" | "quiet";

/** A series of the last values, oldest first, each with its local time in milliseconds. */
export type Series = { at: number; value: number }[];

export interface Trail {
  /** Requests and WebSockets in flight, by pool. */
  pools: Map<string, Series>;
  /** What each drain has left, and the most it was seen to have: the start of its progress bar. */
  drains: Map<string, { series: Series; peak: number }>;
}

/** Two minutes of history at one point a second. */
const TRAIL_MS = 120_000;
const TRAIL_STEP_MS = 1_000;

export const EMPTY_TRAIL: Trail = { pools: new Map(), drains: new Map() };

export function inFlight(counts: Counts): number {
  return counts.requests + counts.websockets;
}

export function sum(counts: Iterable<Counts>): Counts {
  const total = { requests: 0, websockets: 0 };
  for (const { requests, websockets } of counts) {
    total.requests += requests;
    total.websockets += websockets;
  }
  return total;
}

/** Adds a status to the trail. What the status no longer names is forgotten, so the trail stays bounded. */
export function extendTrail(trail: Trail, status: Status, at: number): Trail {
  const pools = new Map<string, Series>();
  for (const pool of status.pools) {
    pools.set(pool.name, extend(trail.pools.get(pool.name) ?? [], inFlight(sum(pool.endpoints)), at));
  }
  const drains: Trail["drains"] = new Map();
  for (const drain of status.drains) {
    const before = trail.drains.get(drain.id) ?? { series: [], peak: 0 };
    const left = inFlight(drain);
    const running = drain.state === "draining";
    drains.set(drain.id, {
      series: running || before.series.length > 0 ? extend(before.series, left, at) : [],
      peak: Math.max(before.peak, left),
    });
  }
  return { pools, drains };
}

function extend(series: Series, value: number, at: number): Series {
  const kept = series.filter((point) => point.at > at - TRAIL_MS && point.at <= at);
  const last = kept.at(-1);
  const previous = kept.at(-2);
  // Within one step the last point moves along, so that a burst of events does not crowd out the past.
  if (last && previous && last.at - previous.at < TRAIL_STEP_MS) kept.pop();
  return [...kept, { at, value }];
}

export interface FleetLine {
  tone: Tone;
  headline: string;
  facts: string[];
}

/** The fleet in one line. Without quorum that is the only thing worth saying. */
export function fleetLine(status: Status): FleetLine {
  if (!status.quorum) {
    return { tone: "bad", headline: `NO QUORUM: serving epoch ${status.epoch}, writes refused`, facts: [] };
  }
  const reachable = status.nodes.filter((node) => node.reachable || node.self).length;
  const facts = [`epoch ${status.epoch}`, `quorum, ${reachable} of ${plural(status.nodes.length, "node")} reachable`];
  const behind = status.nodes.filter((node) => lag(node, status) > 0).length;
  if (behind > 0) facts.push(`${behind} behind`);
  if (status.leader === null) return { tone: "busy", headline: "No leader: election in progress", facts };
  const whole = reachable === status.nodes.length;
  return { tone: whole ? "ok" : "busy", headline: `Leader ${status.leader}`, facts };
}

/** The newest epoch that this status knows of. */
export function newestEpoch(status: Status): number {
  return status.nodes.reduce((newest, node) => Math.max(newest, node.epoch), status.epoch);
}

export function lag(node: FleetNode, status: Status): number {
  return Math.max(0, newestEpoch(status) - node.epoch);
}

export function isLeader(node: FleetNode, status: Status): boolean {
  return status.leader !== null && node.name === status.leader;
}

/**
 * When a node was last heard of; `sinceStatus` is the age of the status itself. A live stream tells changes only:
 * while it is silent, a reachable node is still being heard of, and an unreachable one still is not.
 */
export function lastSeen(node: FleetNode, sinceStatus: number, live: boolean): string {
  if (node.self) return "this node";
  if (node.last_seen_ms === null) return "never seen";
  const age = node.last_seen_ms + (live && node.reachable ? 0 : sinceStatus);
  return node.reachable && age < 2_000 ? "now" : `${formatAge(age)} ago`;
}

/** The address as a link target, if it is one: anything but http(s) in a configuration must not become a link. */
export function adminLink(address: string | null): string | null {
  if (address === null) return null;
  try {
    const url = new URL(address);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

export function affinityLabel(affinity: Affinity): string {
  return affinity.name === null ? affinity.kind : `${affinity.kind} ${affinity.name}`;
}

export function phaseTone(phase: string): Tone {
  if (phase === "active") return "ok";
  if (phase === "draining") return "busy";
  return "quiet";
}

/** "2 active, 1 draining", in the order of an endpoint's life. */
export function phaseSummary(endpoints: Endpoint[]): string {
  const counts = new Map<string, number>([
    ["active", 0],
    ["draining", 0],
    ["drained", 0],
  ]);
  for (const { phase } of endpoints) counts.set(phase, (counts.get(phase) ?? 0) + 1);
  const parts = [...counts].filter(([, number]) => number > 0).map(([phase, number]) => `${number} ${phase}`);
  return parts.length > 0 ? parts.join(", ") : "no endpoints";
}

/** One row for each node: what it counts, or null when it sent no report (which is not zero). */
export function breakdown(endpoint: Endpoint, nodes: FleetNode[]): { node: string; counts: NodeCounts | null }[] {
  const reports = new Map(endpoint.by_node.map((report) => [report.node, report]));
  const names = new Set([...nodes.map((node) => node.name), ...reports.keys()]);
  return [...names].sort(byName).map((node) => ({ node, counts: reports.get(node) ?? null }));
}

export function filterPools(pools: Pool[], words: string): Pool[] {
  const wanted = words.toLowerCase().split(/\s+/).filter((word) => word !== "");
  if (wanted.length === 0) return pools;
  const matches = (pool: Pool, endpoint: Endpoint) => {
    const text = [pool.name, endpoint.name, endpoint.address, endpoint.revision ?? "", endpoint.phase].join(" ").toLowerCase();
    return wanted.every((word) => text.includes(word));
  };
  return pools
    .map((pool) => ({ ...pool, endpoints: pool.endpoints.filter((endpoint) => matches(pool, endpoint)) }))
    .filter((pool) => pool.endpoints.length > 0);
}

/** Running drains first, then the newest. */
export function orderDrains(drains: Drain[]): Drain[] {
  const rank = (drain: Drain) => (drain.state === "draining" ? 0 : 1);
  return [...drains].sort((a, b) => rank(a) - rank(b) || b.started_ms - a.started_ms || byName(b.id, a.id));
}

/** The nodes that say nothing about a drain, each named once. */
export function missingNodes(drain: Drain): string[] {
  const silent = drain.nodes.filter((node: DrainNode) => !node.reported).map((node) => node.node);
  return [...new Set([...drain.missing, ...silent])].sort(byName);
}

export interface DrainVerdict {
  kind: "safe" | "running" | "waiting" | "cancelled";
  tone: Tone;
  text: string;
}

/** Whether the endpoint may be stopped. Only the server's own `safe` says so; a cancelled drain never does. */
export function drainVerdict(drain: Drain): DrainVerdict {
  if (drain.state === "cancelled") return { kind: "cancelled", tone: "quiet", text: "Cancelled, active again" };
  if (drain.safe) return { kind: "safe", tone: "ok", text: "Safe to stop" };
  const left = inFlight(drain);
  const missing = missingNodes(drain);
  if (left === 0 && missing.length > 0) {
    return { kind: "waiting", tone: "bad", text: `Not safe: no report from ${missing.join(", ")}` };
  }
  return { kind: "running", tone: "busy", text: left === 0 ? "Not safe yet: waiting for every node" : "Not safe yet" };
}

/** How much of a drain is done, 0 to 1, measured from the most that this page has seen of it. */
export function drainProgress(drain: Drain, peak: number): number {
  if (drain.safe) return 1;
  if (peak <= 0) return 0;
  // The last hundredth belongs to the server's word.
  return Math.min(0.99, Math.max(0, 1 - inFlight(drain) / peak));
}

/** What an open drain does next: a countdown target, or null when nothing is due. */
export function deadlineLeft(drain: Drain, now: number): number | null {
  return drain.deadline_ms === null || drain.state !== "draining" ? null : drain.deadline_ms - now;
}

export function byName(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true });
}

/** The revisions that a pool's endpoints have, each once. */
export function revisions(endpoints: Endpoint[]): string[] {
  const known = endpoints.flatMap((endpoint) => endpoint.revision ?? []);
  return [...new Set(known)].sort(byName);
}

/** The endpoints of a side of a switchover: of a revision, or without one those that are listed. */
export function onSide(endpoints: Endpoint[], revision: string, listed: string[]): Endpoint[] {
  return endpoints.filter((endpoint) => (revision === "" ? listed.includes(endpoint.name) : endpoint.revision === revision));
}
