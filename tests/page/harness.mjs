/** What the tests of the page share: a browser for a file, a server for a test, and what is done on a page. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { launch } from "./browser.mjs";
import { MockServer } from "./mock.mjs";

/** How long what does not come is waited for; what is right is never as slow. */
const WAIT_MS = Number(process.env.PAGE_WAIT_MS ?? 120_000);
/** A page at a desk, and on a phone. */
export const SIZES = [{}, { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true }];

export let browser;
export let server;
export let complaints; // what pages wrote to their consoles: a breach of the content security policy among them

before(async () => {
  browser = await launch();
});

after(async () => {
  await browser?.close();
});

beforeEach(async () => {
  server = await new MockServer().start();
  complaints = [];
});

afterEach(async () => {
  for (const context of browser.contexts()) await context.close();
  await server.stop();
  assert.deepEqual(complaints.filter((it) => !it.startsWith("Failed to load resource")), []);
});

export async function open({ context, url = server.url, ...options } = {}) {
  context ??= await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  page.on("console", (it) => ["error", "warning"].includes(it.type()) && complaints.push(it.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(url);
  return page;
}

/** A test of what is the same at a desk and on a phone: `run(size)` opens its pages with this size. */
export function atBoth(name, run) {
  for (const size of SIZES) {
    test(`${name}, ${size.isMobile ? "on a phone" : "at a desk"}`, async () => {
      await run(size);
      for (const page of browser.contexts().flatMap((it) => it.pages())) await isInReach(page);
    });
  }
}

/** On a phone, no control is beside the screen, shown only under a mouse, or smaller than 40 pixels (WCAG 2.5.8 asks for 24). */
export async function isInReach(page) {
  const found = await page.evaluate(() => {
    const root = document.documentElement;
    if (matchMedia("(hover: hover)").matches) return [];
    const found = root.scrollWidth > root.clientWidth ? [`the page is ${root.scrollWidth} wide`] : [];
    for (const node of document.querySelectorAll("button, summary, select, textarea, input:not([type=file], [type=radio], [type=checkbox])")) {
      if (!node.checkVisibility({ visibilityProperty: true }) || node.closest("[inert]")) continue;
      const { left, right, width, height } = node.getBoundingClientRect();
      const name = node.dataset.testid || node.id || node.outerHTML.slice(0, 80);
      if (left < 0 || right > root.clientWidth) found.push(`${name} is beside the screen`);
      if (!node.checkVisibility({ opacityProperty: true })) found.push(`${name} cannot be seen`);
      if (width < 40 || height < 40) found.push(`${name} is ${width} × ${height}`);
    }
    return found;
  });
  assert.deepEqual(found, []);
}

/** Shows the list of conversations, which a phone hides. */
export async function openList(page) {
  if (await page.evaluate(() => document.getElementById("sidebar").inert)) await page.click("#menu");
}

export async function beginAnew(page) {
  await openList(page);
  await page.click("#new");
}

export async function ask(page, message) {
  await page.fill("#message", message);
  await page.press("#message", "Enter");
}

/** The text of the last answer. */
export const answer = (page) => page.locator(".turn").last().locator(".answer").innerText();
export const turnIs = (page, status) => page.waitForSelector(`.turn:last-child[data-status=${status}]`);
export const connectionIs = (page, state) => page.waitForSelector(`#connection[data-state=${state}]`, { state: "attached" });
export const answered = (page, text) =>
  page.waitForFunction((it) => [...document.querySelectorAll(".turn")].at(-1)?.querySelector(".answer").textContent.trim() === it, text);
/** Waits until an element says this. */
export const textIs = (page, selector, text) => page.waitForFunction(([one, it]) => document.querySelector(one)?.textContent === it, [selector, text]);

/** What axe finds at WCAG 2 AA, the contrast of every text among it. */
export async function faults(page) {
  await page.evaluate(await readFile(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8"));
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }));
  return violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html.slice(0, 200)}`));
}
