// Opens a page and a WebSocket to the same place in a real browser, and says a few things over it.
//
//   URL   the page, for example https://demo-h2.test:8443/; its WebSocket is at /ws
//   MAP   how names are resolved, for example "MAP *.test 127.0.0.1"
//
// Prints one line of JSON: what came back, and the close code. Exits 1 when it did not work.

import { launchChromium } from "./chromium.mjs";

const url = process.env.URL;
const browser = await launchChromium([`--host-resolver-rules=${process.env.MAP}`, "--ignore-certificate-errors"]);
try {
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  await page.goto(url);
  const result = await page.evaluate(async () => {
    const protocol = performance.getEntriesByType("navigation")[0].nextHopProtocol;
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
    socket.binaryType = "arraybuffer";
    const heard = [];
    const wanted = ["text ä", "x".repeat(100_000)];
    await new Promise((resolve, reject) => {
      socket.onerror = () => reject(new Error("the WebSocket failed"));
      socket.onopen = () => wanted.forEach((text) => socket.send(text));
      socket.onmessage = (event) => {
        // The endpoint ticks by itself, too.
        if (wanted.includes(event.data)) heard.push(event.data.length);
        if (heard.length === wanted.length) resolve();
      };
    });
    const closed = new Promise((resolve) => (socket.onclose = (event) => resolve(event.code)));
    socket.close(3001, "enough");
    return { protocol, heard, code: await closed };
  });
  console.log(JSON.stringify(result));
} finally {
  await browser.close();
}
