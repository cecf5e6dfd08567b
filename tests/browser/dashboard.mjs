// Drains one endpoint through the dashboard of a running node, as an operator would, and checks what the page says.
//
//   TIDELOCK_ADMIN_URL   the node's admin address, for example http://127.0.0.1:9900
//   ENDPOINT             the endpoint of POOL to drain; it must be active
//   POOL                 default: demo
//   NODES                how many nodes the fleet has, default: 3
//   TOKEN                bearer token, if the node asks for one
//   MODE                 streams (default) or sessions
//   DRAIN_TIMEOUT_S      how long the drain may take, default: 60
//   COLOR_SCHEME         light (default) or dark
//   SCREENSHOT           where the last picture of the page goes, also after a failure
//
// Exits 0 when every step held, 1 with the step that did not and what the page showed instead.

import { launchChromium } from "./chromium.mjs";

const STEP_MS = 20_000;

const admin = required("TIDELOCK_ADMIN_URL");
const endpointName = required("ENDPOINT");
const poolName = process.env.POOL ?? "demo";
const nodes = Number(process.env.NODES ?? "3");
const mode = process.env.MODE ?? "streams";
const drainMs = Number(process.env.DRAIN_TIMEOUT_S ?? "60") * 1_000;

const browser = await launchChromium();
const page = await browser.newPage({ colorScheme: process.env.COLOR_SCHEME === "dark" ? "dark" : "light", viewport: { width: 1360, height: 900 } });
const complaints = [];
page.on("pageerror", (error) => complaints.push(`script error: ${error.message}`));
page.on("console", (message) => {
  // A refused script or style is a broken page, not a warning.
  if (/Content Security Policy/i.test(message.text())) complaints.push(message.text());
});

let current = "";
let failure = null;
try {
  await run();
} catch (error) {
  failure = `${current}: ${error.message.split("\n")[0]}`;
}
if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT, fullPage: true }).catch(() => {});
if (failure) await describePage();
await browser.close();

if (!failure && complaints.length > 0) failure = complaints.join("; ");
if (failure) {
  console.error(`dashboard: FAILED at ${failure}`);
  process.exit(1);
}
console.log(`dashboard: ${poolName}/${endpointName} drained and safe to stop`);

async function run() {
  const row = page.locator(`[data-testid=endpoint-row][data-pool="${poolName}"][data-endpoint="${endpointName}"]`);
  const badge = row.getByTestId("phase-badge");

  step("load the dashboard");
  await page.goto(admin, { waitUntil: "domcontentloaded", timeout: STEP_MS });
  if (process.env.TOKEN) {
    await page.getByTestId("token-input").fill(process.env.TOKEN, { timeout: STEP_MS });
    await page.getByTestId("token-submit").click();
  }

  step(`see ${nodes} nodes and one leader`);
  await eventually(async () => {
    const seen = await page.getByTestId("node-row").count();
    if (seen !== nodes) throw new Error(`the nodes table has ${seen} rows`);
    const leaders = await page.locator('[data-testid=node-row][data-leader="true"]').count();
    if (leaders !== 1) throw new Error(`${leaders} nodes are marked as leader`);
  }, STEP_MS);

  step("see the live stream");
  await page.locator('[data-testid=connection-state][data-state="live"]').waitFor({ timeout: STEP_MS });

  step(`see ${endpointName} active in pool ${poolName}`);
  await row.waitFor({ timeout: STEP_MS });
  await phaseBecomes(badge, ["active"], STEP_MS);

  step("open the drain dialog and confirm");
  await row.getByTestId("drain-button").click({ timeout: STEP_MS });
  const dialog = page.getByTestId("drain-dialog");
  await dialog.getByTestId(`drain-mode-${mode}`).check({ timeout: STEP_MS });
  await dialog.getByTestId("drain-deadline").fill(String(Math.max(1, Math.round(drainMs / 2_000))));
  await dialog.getByTestId("drain-reason").fill("browser test");
  await dialog.getByTestId("drain-confirm").click();

  step("be told that the drain was applied");
  await eventually(async () => {
    const outcomes = await page.getByTestId("write").evaluateAll((writes) => writes.map((write) => write.dataset.outcome));
    const refusal = await dialog.getByTestId("outcome").allInnerTexts();
    if (outcomes[0] !== "applied") throw new Error(`the outcome is ${outcomes[0] ?? "not shown"} ${refusal.join(" ")}`);
  }, STEP_MS);
  await dialog.waitFor({ state: "detached", timeout: STEP_MS });
  const drainId = await page.getByTestId("write").first().getByTestId("outcome").getAttribute("data-drain");
  if (!drainId) throw new Error("the outcome names no drain");

  step("see the badge say draining");
  // A drain with nothing in flight may be over before the page is looked at; then the drain's own row says so.
  const phase = await phaseBecomes(badge, ["draining", "drained"], STEP_MS);
  if (phase === "drained") console.log("dashboard: the drain was over before its draining phase could be seen");

  step("see the drain in the drains section");
  const drain = page.locator(`[data-testid=drain-row][data-drain="${drainId}"]`);
  await drain.getByTestId("drain-progress").waitFor({ timeout: STEP_MS });

  step("see the badge say drained");
  await phaseBecomes(badge, ["drained"], drainMs);

  step("see the drain called safe to stop");
  await drain.locator('[data-testid=safe-flag][data-safe="true"]').waitFor({ timeout: STEP_MS });
}

function step(name) {
  current = name;
  console.log(`dashboard: ${name}`);
}

async function phaseBecomes(badge, wanted, timeout) {
  let phase = "";
  await eventually(async () => {
    phase = (await badge.getAttribute("data-phase", { timeout: 1_000 })) ?? "";
    if (!wanted.includes(phase)) throw new Error(`the badge says ${phase}`);
  }, timeout);
  return phase;
}

/** Tries until `check` no longer throws; the last reason is the failure's. */
async function eventually(check, timeout) {
  const end = Date.now() + timeout;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() >= end) throw new Error(`${error.message.split("\n")[0]} after ${timeout / 1_000} s`);
    }
    await page.waitForTimeout(50);
  }
}

async function describePage() {
  const line = await page.getByTestId("fleet-line").allInnerTexts().catch(() => []);
  const connection = await page.locator("[data-testid=connection-state]").getAttribute("data-state", { timeout: 500 }).catch(() => "none");
  console.error(`dashboard: the page says: ${line.join(" ") || "no fleet line"}; connection ${connection}; ${complaints.join("; ")}`);
}

function required(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`dashboard: set ${name}`);
    process.exit(2);
  }
  return value;
}
