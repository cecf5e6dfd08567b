import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// `npm run dev` serves the page itself and passes the API on to a running node (or the mock).
const api = process.env["TIDELOCK_API"] ?? "http://127.0.0.1:9900";

export default defineConfig({
  plugins: [svelte()],
  // Relative, so that the page also works behind a proxy that adds a path (`kubectl proxy`, an ingress).
  base: "./",
  build: {
    outDir: "dist",
    assetsDir: "assets",
    // No data: URLs and no inline preload script, so the node may send a strict Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: true,
  },
  server: { proxy: { "/v1": { target: api, changeOrigin: true } } },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
