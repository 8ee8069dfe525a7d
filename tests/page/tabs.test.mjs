import assert from "node:assert/strict";
import { test } from "node:test";
import { answered, ask, browser, open, server, SIZES, textIs, turnIs } from "./harness.mjs";
import { textScript } from "./mock.mjs";

const until = async (holds) => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
};

/** Does as if somebody looked at another tab, or came back to this one. */
const hide = (page, hidden) =>
  page.evaluate((it) => {
    Object.defineProperty(document, "hidden", { value: it, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);

for (const size of SIZES) {
  test(`page: a second tab hears what becomes of all conversations, over one connection, ${size.isMobile ? "on a phone" : "at a desk"}`, async () => {
    server.script = (message) =>
      message === "wait"
        ? [{ type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: [{ id: "i", reason: "input_required", message: "Which?" }] } }]
        : [...textScript("one").slice(0, 2), { pause: "on" }, ...textScript("one").slice(2)];
    const first = await open(size);
    const second = await open({ context: first.context() });
    await until(() => server.lines === 2);
    const row = (text) => second.waitForFunction((it) => document.querySelector("#sessions li time")?.textContent === it, text);
    await ask(first, "go on");
    await row("Answering");
    await textIs(second, "[data-testid=session] .name", "go on");
    server.go("on");
    await turnIs(first, "finished");
    await second.waitForSelector("#sessions li:not([data-doing])", { state: "attached" });
    await ask(first, "wait");
    await row("Asks you");
    server.sessions.get("s1").title = "Renamed elsewhere";
    await first.evaluate(() => fetch("sessions/s1", { method: "PATCH", body: '{"title":"Renamed"}' }));
    await textIs(second, "[data-testid=session] .name", "Renamed");
    await textIs(first, "#title", "Renamed");
    // The tab that shows a conversation has no further connection, and hears of others.
    await second.goto(`${server.url}#s1`);
    await turnIs(second, "waiting");
    await until(() => server.lines === 2);
    server.begin({ run_id: "r9", session_id: server.session().id, message: "Another" });
    await textIs(second, "[data-testid=session] .name", "Another");
    await first.evaluate(() => fetch("sessions/s1", { method: "DELETE" }));
    for (const page of [first, second]) {
      await textIs(page, "#alert", "That conversation no longer exists.");
      await page.waitForSelector("[data-session-id=s1]", { state: "detached" });
      assert.equal(await page.locator("#welcome").isVisible(), true);
    }
    await until(() => server.lines === 2);
  });
}

test("page: a tab that nobody sees lets its connection go, and has caught up when it is seen", async () => {
  const page = await open();
  await page.clock.install();
  await ask(page, "Hi");
  await turnIs(page, "finished");
  await until(() => server.lines === 1);
  await hide(page, true);
  await page.clock.fastForward(16_000);
  await until(() => server.lines === 0);
  server.begin({ run_id: "elsewhere", session_id: "s1", message: "From my phone" });
  server.session().title = "New";
  await hide(page, false);
  await until(() => server.lines === 1);
  await page.waitForFunction(() => document.querySelectorAll(".turn[data-status=finished]").length === 2);
  await page.waitForFunction(() => document.querySelectorAll("[data-testid=session]").length === 2);
  await hide(page, true);
  await hide(page, false);
  await page.clock.fastForward(16_000);
  await ask(page, "Still there?");
  await page.waitForFunction(() => document.querySelectorAll(".turn[data-status=finished]").length === 3);
  assert.equal(server.lines, 1);
});

test("page: five tabs leave a browser one of its six connections, which is enough", async () => {
  const context = await browser.newContext();
  const pages = [await open({ context })];
  await ask(pages[0], "Hi");
  await turnIs(pages[0], "finished");
  while (pages.length < 5) pages.push(await open({ context, url: `${server.url}#s1` }));
  await until(() => server.lines === 5);
  for (const page of pages) await ask(page, "More").then(() => answered(page, "Hello.")).then(() => turnIs(page, "finished"));
  for (const page of pages) await page.waitForFunction(() => document.querySelectorAll(".turn[data-status=finished]").length === 6);
  assert.equal(server.lines, 5);
});
