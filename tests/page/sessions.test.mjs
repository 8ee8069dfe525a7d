import assert from "node:assert/strict";
import { test } from "node:test";
import { answered, ask, faults, open, server, SIZES, textIs, turnIs } from "./harness.mjs";
import { textScript } from "./mock.mjs";

const titles = (page) => page.locator("[data-testid=session] .name").allTextContents();
const listedAre = (page, expected) =>
  page.waitForFunction((it) => [...document.querySelectorAll("[data-testid=session] .name")].map((one) => one.textContent).join() === it, expected.join());

for (const size of SIZES) {
  const where = size.isMobile ? "on a phone" : "at a desk";
  const openList = (page) => size.isMobile && page.click("#menu");

  test(`page: what was said is found, also where it takes more than one look, ${where}`, async () => {
    server.script = (message) => textScript(message === "Boats" ? "A ketch has two masts." : "Nothing.");
    const page = await open(size);
    for (const message of ["Boats", "Cars", "Trains"]) {
      if (message !== "Boats") await openList(page), await page.click("#new");
      await ask(page, message);
      await turnIs(page, "finished");
    }
    // The server has looked through nothing of interest in the time that it takes for a page.
    let looks = 0;
    server.intercept = (request, response, url) => {
      if (!url.searchParams.has("q") || (looks += 1) > 2) return false;
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ sessions: [], next: "0" }));
      return true;
    };
    await openList(page);
    await page.fill("#search", "TWO MASTS");
    await listedAre(page, ["Boats"]);
    await textIs(page, "#search-status", "");
    assert.equal(looks, 3);
    assert.equal(await page.locator(".found").innerText(), "A ketch has two masts.");
    assert.deepEqual(await faults(page), []);
    await page.fill("#search", "three masts");
    await textIs(page, "#search-status", "Nothing has that in it");
    await page.fill("#search", "tr");
    await listedAre(page, ["Trains"]);
    await page.locator("#search").press("Escape");
    await listedAre(page, ["Trains", "Cars", "Boats"]);
    await page.fill("#search", "ketch");
    await listedAre(page, ["Boats"]);
    await page.locator("[data-testid=session]").click();
    await answered(page, "A ketch has two masts.");
  });

  test(`page: each of several agents has its list, ${where}`, async () => {
    server.agents = ["support", "sales"];
    const page = await open(size);
    await page.waitForSelector("#agent:not([hidden])");
    for (const agent of ["support", "sales"]) {
      await page.selectOption("#agent", agent);
      await ask(page, `For ${agent}`);
      await turnIs(page, "finished");
      await openList(page);
      await page.click("#new");
    }
    await openList(page);
    await listedAre(page, ["For sales", "For support"]);
    await page.selectOption("#of-agent", "support");
    await listedAre(page, ["For support"]);
    assert.equal(await page.locator("#agent").inputValue(), "support");
    assert.deepEqual(await faults(page), []);
    await page.reload();
    await listedAre(page, ["For support"]);
    await openList(page);
    await page.selectOption("#of-agent", "");
    await listedAre(page, ["For sales", "For support"]);
    assert.deepEqual((await titles(page)).length, 2);
  });

  test(`page: of 5,000 conversations those in sight have rows, by scrolling and by keyboard, ${where}`, async () => {
    for (let i = 1; i <= 5000; i += 1) server.session().title = `Talk ${i}`;
    server.intercept = (request, response, url) => {
      url.searchParams.set("limit", "1000");
      return false;
    };
    const page = await open(size);
    await openList(page);
    const [rows, list] = [page.locator("[data-testid=session]"), page.locator("#sessions")];
    const known = (count) => page.waitForFunction((it) => document.getElementById("sessions").dataset.count === String(it), count);
    for (let count = 1000; count <= 5000; count += 1000) {
      await known(count);
      await list.evaluate((it) => it.scrollTo(0, it.scrollHeight));
    }
    await page.waitForFunction(() => [...document.querySelectorAll("#sessions .name")].at(-1)?.textContent === "Talk 1");
    assert.ok((await rows.count()) < 100, "a click costs what is in sight");
    assert.equal(await page.locator("#sessions [aria-posinset='5000']").getAttribute("aria-setsize"), "5000");
    assert.deepEqual(await faults(page), []);
    const inSight = () => rows.evaluateAll((them) => them.filter((it) => it.getBoundingClientRect().bottom > it.closest("ul").getBoundingClientRect().top).length);
    await list.evaluate((it) => it.scrollTo(0, it.scrollHeight / 2));
    await page.waitForFunction(() => [...document.querySelectorAll("#sessions .name")].some((it) => it.textContent === "Talk 2500"));
    assert.ok((await inSight()) > 5, "and no hole is seen");
    // Tab finds the next one wherever that is; the one with the focus keeps it while it is scrolled away.
    await list.evaluate((it) => it.scrollTo(0, 0));
    await page.waitForSelector("#sessions [aria-posinset='1']");
    await rows.first().focus();
    for (let i = 0; i < 120; i += 1) await page.keyboard.press("Tab");
    await page.waitForFunction(() => document.activeElement.querySelector(".name")?.textContent === "Talk 4960");
    await list.evaluate((it) => it.scrollTo(0, it.scrollHeight));
    await page.waitForFunction(() => [...document.querySelectorAll("#sessions .name")].at(-1)?.textContent === "Talk 1");
    assert.equal(await page.evaluate(() => document.activeElement.querySelector(".name").textContent), "Talk 4960");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.waitForFunction(() => document.activeElement.querySelector(".name")?.textContent === "Talk 4959");
    await page.keyboard.press("Enter");
    await textIs(page, "#title", "Talk 4959");
    assert.ok((await rows.count()) < 100);
  });
}
