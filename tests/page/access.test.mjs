import assert from "node:assert/strict";
import { test } from "node:test";
import { answered, ask, faults, open, server, SIZES, turnIs } from "./harness.mjs";

for (const size of SIZES) {
  const where = size.isMobile ? "on a phone" : "at a desk";

  test(`page: who is not known is sent to log in, and comes back, ${where}`, async () => {
    server.attributes = 'data-login="/login?next={next}" data-logout="/logout"';
    let known = false;
    server.intercept = (request, response, url) => {
      if (url.pathname === "/login") known = true; // as a proxy, or the app that this one is part of, would have it
      if (url.pathname === "/logout") known = false;
      if (["/login", "/logout"].includes(url.pathname)) {
        response.writeHead(303, { location: url.searchParams.get("next") ?? "/" });
        response.end();
        return true;
      }
      if (known || url.pathname === "/" || url.pathname.startsWith("/static/")) return false;
      response.writeHead(401, { "content-type": "application/json" });
      response.end(JSON.stringify({ error: { code: "unauthorized", message: "log in" } }));
      return true;
    };
    const page = await open({ ...size, url: `${server.url}#s1` });
    await page.waitForSelector("#login-dialog[open]");
    assert.equal(await page.locator("#key-dialog").isVisible(), false);
    assert.deepEqual(await faults(page), []);
    await page.keyboard.press("Escape");
    await page.click("[data-testid=log-in]");
    await page.waitForURL(server.url); // that conversation is none
    await ask(page, "Hi");
    await turnIs(page, "finished");
    await answered(page, "Hello.");
    await page.click("[data-testid=more]");
    await page.click("[data-testid=log-out]");
    await page.waitForSelector("#login-dialog[open]");
  });

  test(`page: a key is forgotten when it is wanted, ${where}`, async () => {
    server.key = "0123456789abcdef";
    const page = await open(size);
    await page.fill("#key", server.key);
    await page.click("[data-testid=key-submit]");
    await ask(page, "Hi");
    await turnIs(page, "finished");
    await page.click("[data-testid=more]");
    assert.equal(await page.locator("[data-testid=log-out]").isVisible(), false);
    await page.click("[data-testid=forget-key]");
    await page.waitForSelector("#key-dialog[open]");
  });
}
