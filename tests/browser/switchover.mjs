// Starts a switchover through the dashboard of a running node, and rolls it back, as an operator would.
//
//   TIDELOCK_ADMIN_URL   the node's admin address
//
// Pool `demo` has the endpoints app-1 and app-2 of revision v1, and app-3 of v2.

import { launchChromium } from "./chromium.mjs";

const STEP_MS = 20_000;
const browser = await launchChromium();
const page = await browser.newPage({ viewport: { width: 1360, height: 900 } });
page.setDefaultTimeout(STEP_MS);
let current = "";
let failure = null;
try {
  await run();
} catch (error) {
  failure = `${current}: ${error.message.split("\n")[0]}`;
}
await browser.close();
if (failure) {
  console.error(`switchover: FAILED at ${failure}`);
  process.exit(1);
}

async function run() {
  step("open the dialog by the keyboard");
  await page.goto(process.env.TIDELOCK_ADMIN_URL, { waitUntil: "domcontentloaded" });
  await page.getByRole("button", { name: "Switch over demo" }).press("Enter");
  const dialog = page.getByRole("dialog", { name: /^Switch over/ });
  const confirm = dialog.getByTestId("switchover-confirm");

  step("be refused before anything is named");
  await confirm.click();
  await dialog.locator('[data-testid=outcome][data-outcome="rejected"]').waitFor();

  step("see what it would do");
  await dialog.getByTestId("switchover-from").selectOption("v1");
  await dialog.getByTestId("switchover-to").selectOption("");
  await dialog.getByTestId("switchover-to-app-3").check();
  await confirm.click();
  const preview = await dialog.getByTestId("switchover-preview").innerText();
  if (!preview.includes("2 endpoints would drain: app-1, app-2")) throw new Error(`it says ${preview}`);
  if ((await page.getByTestId("switchover-row").count()) > 0) throw new Error("the look has begun it");

  step("look again after a change");
  await dialog.getByTestId("switchover-wait").fill("500");
  await dialog.getByTestId("switchover-preview").waitFor({ state: "detached" });
  await confirm.click();
  await dialog.getByTestId("switchover-preview").waitFor();

  step("start it");
  await confirm.click();
  await dialog.waitFor({ state: "detached" });
  await page.locator('[data-testid=endpoint-row][data-endpoint="app-1"]:not([data-phase="active"])').waitFor();

  step("roll it back");
  const row = page.getByTestId("switchover-row");
  await row.getByTestId("roll-back-button").click();
  await page.locator('[data-testid=switchover-row][data-stage="rolled-back"]').waitFor();
  await page.locator('[data-testid=endpoint-row][data-endpoint="app-1"][data-phase="active"]').waitFor();
}

function step(name) {
  current = name;
  console.log(`switchover: ${name}`);
}
