// How long to wait before the live stream is tried again.

const FIRST_MS = 500;
const MAX_MS = 15_000;

/**
 * The wait before attempt `failures + 1`, in milliseconds: doubling from 0.5 s, at most 15 s. `random` (0 to 1)
 * takes away up to half of it, so that the dashboards of a restarted node do not all come back in the same moment.
 */
export function backoffMs(failures: number, random: number): number {
  const full = Math.min(MAX_MS, FIRST_MS * 2 ** Math.min(Math.max(failures, 0), 20));
  return Math.round(full * (1 - random / 2));
}
