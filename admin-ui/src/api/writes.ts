// The writes the dashboard can make.

import { newKey, type WriteAction } from "./http";
import type { DrainMode, Side } from "./types";

export interface DrainRequest {
  mode: DrainMode;
  /** Null leaves the field out. */
  deadline_seconds: number | null;
  reason: string;
  /** Closes in a second; null leaves the field out, and the fleet its default. */
  pace: number | null;
}

function drainPath(pool: string, endpoint: string): string {
  return `v1/pools/${encodeURIComponent(pool)}/endpoints/${encodeURIComponent(endpoint)}/drain`;
}

export function startDrain(pool: string, endpoint: string, request: DrainRequest): WriteAction {
  const body: Record<string, unknown> = { mode: request.mode };
  if (request.deadline_seconds !== null) body["deadline_seconds"] = request.deadline_seconds;
  if (request.pace !== null) body["pace"] = request.pace;
  if (request.reason.trim() !== "") body["reason"] = request.reason.trim();
  return { method: "POST", path: drainPath(pool, endpoint), body, key: newKey() };
}

export function cancelDrain(pool: string, endpoint: string): WriteAction {
  return { method: "DELETE", path: drainPath(pool, endpoint), body: undefined, key: newKey() };
}

export interface SwitchoverRequest {
  from: Side;
  to: Side;
  /** Null leaves a field out, and the fleet its default. */
  pace: number | null;
  min_ready: number | null;
  wait_seconds: number | null;
  max_error_percent: number | null;
}

/** A revision, or without one the list. */
export function sideOf(revision: string, endpoints: string[]): Side {
  return revision === "" ? { revision: null, endpoints } : { revision, endpoints: [] };
}

export function startSwitchover(pool: string, request: SwitchoverRequest): WriteAction {
  const side = (of: Side) => (of.revision === null ? { endpoints: of.endpoints } : { revision: of.revision });
  const given = Object.entries(request).filter(([, value]) => value !== null);
  const body = { ...Object.fromEntries(given), from: side(request.from), to: side(request.to) };
  return { method: "POST", path: `v1/pools/${encodeURIComponent(pool)}/switchovers`, body, key: newKey() };
}

export function rollBack(switchover: string): WriteAction {
  return { method: "DELETE", path: `v1/switchovers/${encodeURIComponent(switchover)}`, body: undefined, key: newKey() };
}
