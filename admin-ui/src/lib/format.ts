// Numbers and times as the dashboard writes them. Pure: the present comes in as an argument.

const COUNT = new Intl.NumberFormat("en-US");

export function formatCount(value: number): string {
  return COUNT.format(value);
}

/** "1 request", "2,400 requests". */
export function plural(value: number, one: string, many = `${one}s`): string {
  return `${formatCount(value)} ${value === 1 ? one : many}`;
}

/** An age, one unit below a minute and two above: "now", "4 s", "3 min 20 s", "2 h 5 min", "3 d 4 h". */
export function formatAge(ms: number): string {
  return ms < 1_000 ? "now" : formatDuration(ms);
}

export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return two(minutes, "min", seconds % 60, "s");
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return two(hours, "h", minutes % 60, "min");
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

function two(first: number, firstUnit: string, second: number, secondUnit: string): string {
  return second === 0 ? `${first} ${firstUnit}` : `${first} ${firstUnit} ${second} ${secondUnit}`;
}

/** A countdown that keeps its width: "4:07", "1:02:09"; "0:00" once it is over. Rounds up, so 0 means 0. */
export function formatCountdown(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1_000));
  const pad = (value: number) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3_600);
  const minutes = Math.floor(seconds / 60) % 60;
  return hours > 0 ? `${hours}:${pad(minutes)}:${pad(seconds % 60)}` : `${minutes}:${pad(seconds % 60)}`;
}

/** The time of day by the reader's own clock and zone, 24 hours. */
export function formatTime(unixMs: number): string {
  return new Date(unixMs).toLocaleTimeString("en-GB");
}
