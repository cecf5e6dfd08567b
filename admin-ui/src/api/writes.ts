// The writes the dashboard can make.

import { newKey, type WriteAction } from "./http";
import type { DrainMode } from "./types";

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
