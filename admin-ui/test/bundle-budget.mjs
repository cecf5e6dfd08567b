// Fails the build when the page's JavaScript outgrows its budget, or when it holds something that a strict
// Content-Security-Policy would stop. Runs after `vite build`.

import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const BUDGET_BYTES = 45_000;
const dist = new URL("../dist/", import.meta.url);

const assets = readdirSync(new URL("assets/", dist));
const sizes = assets.map((name) => {
  const content = readFileSync(new URL(`assets/${name}`, dist));
  return { name, gzip: gzipSync(content, { level: 9 }).length };
});
const scripts = sizes.filter(({ name }) => name.endsWith(".js")).reduce((total, { gzip }) => total + gzip, 0);
const problems = [];

if (scripts > BUDGET_BYTES) problems.push(`JavaScript is ${scripts} bytes gzip, the budget is ${BUDGET_BYTES}`);
for (const { name } of sizes) {
  if (!/-[\w-]{8}\.\w+$/.test(name)) problems.push(`assets/${name} has no hash in its name`);
}
const page = readFileSync(new URL("index.html", dist), "utf8");
if (/<script(?![^>]*\ssrc=)/.test(page)) problems.push("index.html has an inline script");
if (/<style|\sstyle=|\son\w+=/.test(page)) problems.push("index.html has an inline style or handler");
if (/(?:src|href)="(?!\.\/assets\/)/.test(page)) problems.push("index.html refers to something outside assets/");

for (const problem of problems) console.error(`bundle: ${problem}`);
console.log(`bundle: ${scripts} bytes of JavaScript gzip (budget ${BUDGET_BYTES}), ${assets.length} assets`);
process.exit(problems.length > 0 ? 1 : 0);
