// The dashboard's own scenarios against admin-ui/test/mock.mjs, which is a stand-in for a node: they prove what
// the page does with an answer, not that Tidelock gives it. Needs `npm run build` in admin-ui first.
//
//   node scenarios.mjs [part of a name]      SCREENSHOTS=folder keeps a picture of each

import assert from "node:assert/strict";
import { startMock } from "../../admin-ui/test/mock.mjs";
import { launchChromium } from "./chromium.mjs";

const scenarios = [];
const scenario = (name, options, run) => scenarios.push({ name, options, run });

const row = (page, endpoint) => page.locator(`[data-testid=endpoint-row][data-endpoint="${endpoint}"]`);
const connection = (page, state) => page.locator(`[data-testid=connection-state][data-state="${state}"]`).waitFor();
const write = (page, outcome) => page.locator(`[data-testid=write][data-outcome="${outcome}"]`).first();

async function drain(page, endpoint) {
  await row(page, endpoint).getByTestId("drain-button").click();
  await page.getByTestId("drain-confirm").click();
}

scenario("a drain is shown by node, counts down and can be cancelled", { tick_ms: 10_000 }, async ({ page, mock }) => {
  await drain(page, "demo-10");
  await write(page, "applied").waitFor();
  const drained = page.locator("[data-testid=drain-row][data-state=draining]");
  assert.equal(await drained.getByTestId("drain-node").count(), 3);
  assert.match(await drained.getByTestId("drain-countdown").innerText(), /^[45]:\d\d$/);
  assert.equal(await drained.getByTestId("safe-flag").getAttribute("data-safe"), "false");
  const progress = drained.getByTestId("drain-progress");
  assert.equal(await progress.evaluate((bar) => bar.value), 0);
  for (const counts of mock.fleet.pools[0].endpoints[3].by_node) counts.websockets /= 4;
  mock.publish();
  await page.waitForFunction(() => document.querySelector("[data-testid=drain-progress]").value > 0.7);
  await row(page, "demo-10").getByTestId("cancel-drain-button").click();
  await row(page, "demo-10").locator("[data-phase=active]").waitFor();
  await page.locator('[data-testid=drain-row][data-state=cancelled][data-endpoint="demo-10"]').waitFor();
});

scenario("the keyboard reaches everything and focus comes back", {}, async ({ page }) => {
  const button = row(page, "demo-2").getByTestId("drain-button");
  await button.focus();
  await page.keyboard.press("Enter");
  await page.getByTestId("drain-dialog").waitFor();
  for (let presses = 0; presses < 12; presses += 1) {
    await page.keyboard.press("Tab");
    const place = await page.evaluate(() => document.activeElement?.closest("dialog, body")?.tagName);
    const outside = await page.evaluate(() => document.activeElement !== document.body && !document.activeElement?.closest("dialog"));
    assert.ok(!outside, `focus left the dialog to ${place}`);
  }
  await page.keyboard.press("Escape");
  await page.getByTestId("drain-dialog").waitFor({ state: "detached" });
  assert.ok(await button.evaluate((element) => element === document.activeElement), "focus is back on the button");
  await row(page, "demo-2").getByTestId("expand-endpoint").focus();
  await page.keyboard.press("Space");
  await page.getByTestId("endpoint-node-row").nth(2).waitFor();
  assert.equal(await row(page, "demo-2").getByTestId("expand-endpoint").getAttribute("aria-expanded"), "true");
});

scenario("sections have addresses and the filter narrows endpoints", {}, async ({ page, mock }) => {
  await page.getByTestId("tab-pools").click();
  assert.equal(new URL(page.url()).hash, "#/pools");
  assert.equal(await page.getByTestId("node-row").count(), 0);
  await page.getByTestId("filter").fill("84c6 demo-3");
  await page.waitForFunction(() => document.querySelectorAll("[data-testid=endpoint-row]").length === 1);
  await page.goto(`${mock.url}/#/routes`);
  await page.getByTestId("route-row").nth(3).waitFor();
  await page.goBack();
  await page.getByTestId("filter").waitFor();
});

scenario("an empty fleet says what to do next", { scenario: "empty" }, async ({ page, mock }) => {
  const text = await page.locator("main").innerText();
  for (const words of ["No pools yet", "No drains", "No routes", `tidelock --api ${mock.url} pool put app`]) {
    assert.ok(text.includes(words), `the page lacks: ${words}`);
  }
});

scenario("a lost quorum is the first thing said", { scenario: "no-quorum" }, async ({ page }) => {
  assert.equal((await page.getByTestId("fleet-line").innerText()).trim(), "NO QUORUM: serving epoch 1041, writes refused");
  assert.match(await page.title(), /^NO QUORUM/);
  assert.equal(await page.locator('[data-testid=node-row][data-reachable="false"]').count(), 2);
  assert.equal(await page.locator('[data-testid=node-row][data-leader="true"]').count(), 0);
  await drain(page, "demo-1");
  await page.getByTestId("drain-dialog").locator("[data-outcome=unknown]").waitFor();
  await row(page, "demo-1").locator("[data-phase=active]").waitFor();
});

scenario("a node that wants a token gets one, and a wrong one is told", { scenario: "token" }, async ({ page }) => {
  assert.equal(await page.getByTestId("token-refused").count(), 0);
  await page.getByTestId("token-input").fill("wrong");
  await page.getByTestId("token-submit").click();
  await page.getByTestId("token-refused").waitFor();
  await page.getByTestId("token-input").fill("tide");
  await page.keyboard.press("Enter");
  await connection(page, "live");
  await drain(page, "demo-1");
  await write(page, "applied").waitFor();
  await page.reload();
  await connection(page, "live");
  assert.equal(await page.evaluate(() => localStorage.length), 0);
  await page.getByRole("button", { name: "Forget the token" }).click();
  await page.getByTestId("token-dialog").waitFor();
  assert.equal(await page.getByTestId("endpoint-row").count(), 0, "nothing of the fleet stays on the page");
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});

scenario("without a stream the page polls", { scenario: "polling" }, async ({ page, mock }) => {
  await connection(page, "polling");
  mock.fleet.epoch = 2_000;
  await page.getByTestId("fleet-line").getByText("epoch 2000").waitFor();
});

scenario("a broken stream is bridged by polling and found again", {}, async ({ page, mock }) => {
  await connection(page, "live");
  mock.dropStreams(false);
  await connection(page, "polling");
  mock.dropStreams(true);
  await page.getByRole("button", { name: "Retry now" }).click();
  await connection(page, "live");
  assert.equal(mock.openStreams(), 1);
  await mock.close();
  await connection(page, "offline");
  assert.equal(await page.getByTestId("node-row").count(), 3, "the last status stays on the page");
});

scenario("a rejected write says why and can be corrected", { scenario: "rejecting" }, async ({ page }) => {
  await drain(page, "demo-1");
  const outcome = page.getByTestId("drain-dialog").locator("[data-outcome=rejected]");
  await outcome.waitFor();
  assert.match(await outcome.innerText(), /deadline_seconds\s*must be at most 86400/);
  await page.getByTestId("drain-deadline").fill("60");
  await outcome.waitFor({ state: "detached" });
});

scenario("an unknown outcome is repeated with the same key", { scenario: "unknown" }, async ({ page, mock }) => {
  const keys = [];
  page.on("request", (request) => request.method() === "POST" && keys.push(request.headers()["idempotency-key"]));
  await drain(page, "demo-1");
  await page.getByTestId("drain-dialog").locator("[data-outcome=unknown]").waitFor();
  await page.getByTestId("drain-confirm").click();
  await write(page, "applied").waitFor();
  assert.equal(await page.getByTestId("write").count(), 1, "one write is listed once");
  assert.equal(keys.length, 2);
  assert.equal(keys[0], keys[1]);
  assert.equal(mock.fleet.drains.filter((entry) => entry.endpoint === "demo-1").length, 1);
});

scenario("a node that is away is named and never counted as zero", { scenario: "missing", tick_ms: 40 }, async ({ page }) => {
  await drain(page, "assets-1");
  const drained = page.locator("[data-testid=drain-row][data-state=draining]");
  await drained.locator('[data-testid=drain-missing][data-node="c"]').waitFor();
  await drained.getByText("Not safe: no report from c").waitFor();
  await row(page, "assets-1").getByTestId("expand-endpoint").click();
  await page.locator('[data-testid=endpoint-node-row][data-node="c"]').getByText("no report").waitFor();
});

scenario("text from the fleet is text", {}, async ({ page, mock }) => {
  mock.fleet.nodes[1].admin = "javascript:alert(1)";
  mock.fleet.nodes[2].version = "<img src=x onerror=alert(1)>";
  mock.publish();
  await page.getByText("<img src=x").waitFor();
  assert.equal(await page.locator('a[href^="javascript"], img').count(), 0);
});

scenario("a narrow screen scrolls tables, not the page", { width: 390 }, async ({ page }) => {
  await drain(page, "demo-1");
  await write(page, "applied").waitFor();
  const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  assert.ok(content <= width, `the page is ${content} wide on a screen of ${width}`);
});

const wanted = process.argv[2] ?? "";
const browser = await launchChromium();
let failures = 0;
for (const { name, options, run } of scenarios.filter((candidate) => candidate.name.includes(wanted))) {
  const { width = 1360, ...mockOptions } = options;
  const mock = await startMock(mockOptions);
  const context = await browser.newContext({ viewport: { width, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(8_000);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => /Content Security Policy/i.test(message.text()) && complaints.push(message.text()));
  try {
    await page.goto(mock.url);
    const ready = options.scenario === "token" ? "token-dialog" : "fleet-line";
    await page.getByTestId(ready).waitFor();
    await run({ page, mock });
    assert.deepEqual(complaints, []);
    console.log(`ok      ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`FAILED  ${name}\n        ${error.message.split("\n").slice(0, 4).join("\n        ")}`);
  }
  if (process.env.SCREENSHOTS) {
    await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name.replaceAll(/\W+/g, "-")}.png`, fullPage: true });
  }
  await context.close();
  await mock.close().catch(() => {});
}
await browser.close();
console.log(failures === 0 ? "all scenarios passed" : `${failures} failed`);
process.exit(failures === 0 ? 0 : 1);
