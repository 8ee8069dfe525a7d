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
}
