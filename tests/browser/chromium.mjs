// Starts Debian's Chromium the way a test machine needs it: no sandbox inside a container, no GPU, no QUIC and
// none of the browser's own requests.

import { chromium } from "playwright-core";

export function launchChromium(more = []) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...more,
    ],
  });
}
