/**
 * Ten tabs, in two browsers, on one conversation of a real server, behind a network that cuts every stream again and again:
 * any of them asks, some at once. Prints what each shows in the end. `node ten_tabs.mjs URL SEED QUESTIONS CUTS SIZE`
 */
import net from "node:net";
import { launch } from "./browser.mjs";

const upstream = process.argv[2];
const [seed, questions, cutsMax] = process.argv.slice(3, 6).map(Number);
const SIZE = { desk: {}, phone: { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true } }[process.argv[6]];
const WAIT_MS = 120_000;
const CUT_BYTES = [400, 4000];

/** A number in [0, 1), by the seed alone (mulberry32). */
let state = seed;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

let cuts = 0;
const proxy = net.createServer((socket) => {
  const up = net.connect(Number(new URL(upstream).port), "127.0.0.1");
  let left = null; // how many bytes of a stream pass
  up.on("data", (bytes) => {
    if (left === null && /^HTTP[^]*\r\ncontent-type: text\/event-stream/.test(bytes) && cuts < cutsMax) left = CUT_BYTES[0] + random() * (CUT_BYTES[1] - CUT_BYTES[0]);
    if (left !== null) left -= bytes.length;
    if (left === null || left > 0) return socket.write(bytes);
    cuts += 1;
    socket.write(bytes.subarray(0, bytes.length + Math.floor(left)));
    socket.resetAndDestroy();
    return up.destroy();
  });
  socket.on("data", (bytes) => up.write(bytes));
  for (const [one, other] of [[socket, up], [up, socket]]) {
    one.on("error", () => other.destroy());
    one.on("close", () => other.destroy());
  }
});
await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${proxy.address().port}/`;

const browser = await launch();
const problems = [];
const pages = [];
for (const _ of ["one", "another"]) {
  const context = await browser.newContext(SIZE);
  await context.addInitScript(() => (Math.random = () => 0)); // who was cut off comes back at once
  for (let tab = 0; tab < 5; tab += 1) {
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    page.on("pageerror", (error) => problems.push(String(error)));
    await page.goto(`${url}#s`);
    pages.push(page);
  }
}

async function ask(page, text) {
  for (;;) {
    await page.waitForFunction(() => !document.getElementById("send").hidden);
    await page.fill("#message", text);
    await page.press("#message", "Enter");
    if ((await page.inputValue("#message")) === "") return; // else another tab was faster
  }
}

let asked = 0;
while (asked < questions) {
  const tabs = [...pages].sort(() => random() - 0.5).slice(0, 1 + Math.floor(random() * 3));
  await Promise.all(tabs.map((page) => ask(page, `Question ${(asked += 1)}`)));
}
const shown = [];
for (const page of pages) {
  await page.waitForFunction((it) => document.querySelectorAll(".turn[data-status=finished]").length === it, asked);
  shown.push(await page.evaluate(() => [...document.querySelectorAll(".turn")].map((turn) => [turn.querySelector("[data-testid=user]").innerText, turn.querySelector(".answer").innerText.trim()])));
}
console.log(JSON.stringify({ shown, cuts, problems }));
// The connections stay until it was looked how many there are.
await new Promise((resolve) => process.stdin.once("data", resolve));
await browser.close();
process.exit();
