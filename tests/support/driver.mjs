/** A browser driven line by line: a JSON command on each line of stdin, its JSON answer on stdout. */
import { createInterface } from "node:readline";
import { launch } from "../page/browser.mjs";
import { deliver, workerOf } from "../page/pushing.mjs";

/** How long what does not come is waited for; what is right is never as slow. */
const TIMEOUT_MS = 120_000;
const browser = await launch();
const context = await browser.newContext();
const pages = new Map();

async function page(name) {
  if (!pages.has(name)) {
    const fresh = await context.newPage();
    fresh.setDefaultTimeout(TIMEOUT_MS);
    fresh.on("pageerror", (error) => errors.push(String(error)));
    fresh.on("console", (message) => message.type() === "error" && logged.push(`${message.text()} ${message.location().url}`));
    pages.set(name, fresh);
  }
  return pages.get(name);
}
const errors = [];
const logged = [];

const commands = {
  goto: async ({ tab, url }) => void (await (await page(tab)).goto(url)),
  reload: async ({ tab }) => void (await (await page(tab)).reload()),
  fill: async ({ tab, selector, value }) => void (await (await page(tab)).fill(selector, value)),
  press: async ({ tab, selector, key }) => void (await (await page(tab)).press(selector, key)),
  click: async ({ tab, selector }) => void (await (await page(tab)).click(selector)),
  evaluate: async ({ tab, script, value }) => (await page(tab)).evaluate(`(${script})(${JSON.stringify(value ?? null)})`),
  /** Until `script`, a function's source, returns something true; returns that. */
  until: async ({ tab, script, value }) => {
    // Asked again and again from here: the page's own security policy forbids what Playwright would do inside it.
    const target = await page(tab);
    const expression = `(${script})(${JSON.stringify(value ?? null)})`;
    for (const deadline = Date.now() + TIMEOUT_MS; ; await new Promise((done) => setTimeout(done, 20))) {
      const found = await target.evaluate(expression).catch(() => null); // null while it navigates
      if (found) return found;
      if (Date.now() > deadline) throw new Error(`never true: ${expression}\n${await target.locator("body").innerText()}`);
    }
  },
  screenshot: async ({ tab, path }) => void (await (await page(tab)).screenshot({ path })),
  /** Runs `script`, a function's source, in the tab before anything of its next pages; time goes by there as `pass` lets it, too. */
  prepare: async ({ tab, script }) => {
    await (await page(tab)).addInitScript(`(${script})()`);
    await (await page(tab)).clock.install();
  },
  pass: async ({ tab, ms }) => void (await (await page(tab)).clock.runFor(ms)),
  viewport: async ({ tab, width, height }) => void (await (await page(tab)).setViewportSize({ width, height })),
  scheme: async ({ tab, value }) => void (await (await page(tab)).emulateMedia({ colorScheme: value })),
  /** What the page's service worker shows of a message that comes to it. */
  push: async ({ tab, message }) => deliver(await page(tab), await workerOf(await page(tab)), message),
  /** All pages are left, and with them their connections, of which a browser has six for a server. */
  leave: async () => void (await Promise.all([...pages.values()].map((one) => one.goto("about:blank")))),
  errors: async () => errors,
  logged: async () => logged,
};

console.log(JSON.stringify({ ok: "ready" }));
for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...options } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ ok: (await commands[op](options)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
