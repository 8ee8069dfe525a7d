/**
 * The bell, and the service worker behind it. The Chromium of these tests has neither a push service nor a place for
 * notifications, and says that both are denied: what the page and the worker call of these is in its place here. The
 * worker is a real one, and messages come to it as from a push service.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, atBoth, beginAnew, browser, faults, open, server, textIs, turnIs } from "./harness.mjs";
import { deliver, workerOf } from "./pushing.mjs";

const KEY = "BIUK4t9a_za7RUGfmqLGCrT22CE5atB46pug3Rp6aMyVeSas4rEhIdM4DkOSjCqSAlooF3rWbiMkz42TZyGHUwU";

/** In the page: notifications that are asked for, and a push service that remembers its subscription. */
function stub({ permission, answer }) {
  const state = (window.stub = { permission: localStorage.getItem("stub.permission") ?? permission, asked: 0 });
  Object.defineProperty(Notification, "permission", { get: () => state.permission });
  const allowed = () => {
    if (state.permission === "default") {
      state.asked += 1;
      state.permission = answer;
      localStorage.setItem("stub.permission", answer);
    }
    return state.permission === "granted";
  };
  const kept = () => {
    const one = JSON.parse(localStorage.getItem("stub.subscription"));
    return one && { ...one, toJSON: () => one, unsubscribe: async () => localStorage.removeItem("stub.subscription") };
  };
  PushManager.prototype.getSubscription = async () => kept();
  PushManager.prototype.subscribe = async ({ applicationServerKey: key, userVisibleOnly }) => {
    if (!allowed()) throw new DOMException("permission denied", "NotAllowedError");
    if (!userVisibleOnly) throw new TypeError("browsers want that");
    if (kept() && kept().key !== key) throw new DOMException("another key", "InvalidStateError");
    const serial = Number(localStorage.getItem("stub.serial") ?? 0) + (kept() ? 0 : 1);
    localStorage.setItem("stub.serial", serial);
    localStorage.setItem("stub.subscription", JSON.stringify({ endpoint: `https://push.example.com/${serial}`, key, keys: { p256dh: "p", auth: "a" } }));
    return kept();
  };
}

async function openPage({ permission = "default", answer = "granted", context, ...size } = {}) {
  server.attributes = `data-push="${KEY}"`;
  if (!context) {
    context = await browser.newContext(size);
    await context.addInitScript(stub, { permission, answer });
  }
  return open({ context });
}

const bellIs = (page, state) => page.waitForSelector(`#bell[data-state=${state}]`);

async function ring(page) {
  await bellIs(page, "off");
  await page.click("[data-testid=bell]");
  await bellIs(page, "on");
}

/** Has a message come as from the push service; what the worker has shown once it is done with it. */
const push = (page, worker, message) =>
  deliver(page, worker, { id: "n1", status: "finished", title: "Trains", session_id: "elsewhere", at: 1, ...message });

/** Has something else happen to the worker, as browsers have it; what it has opened once it is done with it. */
function happens(worker, type, more) {
  return worker.evaluate(
    async ([type, more]) => {
      const done = new Promise((resolve) => (self.done = resolve));
      if (more.notification) more.notification.close = () => opened.push("closed");
      dispatchEvent(Object.assign(new ExtendableEvent(type), more));
      await done;
      return opened.splice(0);
    },
    [type, more],
  );
}

const click = (worker, session) => happens(worker, "notificationclick", { notification: { data: { session } } });
const sessionOf = (page) => page.evaluate(() => document.documentElement.dataset.session);
/** Makes the page one that is not looked at. */
const hide = (page) => page.evaluate(() => Object.defineProperty(document, "hidden", { get: () => true }));

test("bell: a server that tells no browsers has none", async () => {
  const page = await open();
  assert.equal(await page.locator("#bell").isVisible(), false);
});

atBoth("bell: asks for leave when it is rung, tells the server, and takes it back", async (size) => {
  const page = await openPage(size);
  await bellIs(page, "off");
  assert.equal(await page.evaluate(() => window.stub.asked), 0);
  assert.equal(await page.locator("#bell").getAttribute("aria-pressed"), "false");
  assert.deepEqual(await faults(page), []);
  await ring(page);
  assert.equal(await page.evaluate(() => window.stub.asked), 1);
  assert.equal(await page.locator("#bell").getAttribute("aria-pressed"), "true");
  await textIs(page, "#live", "Notifications are on");
  assert.deepEqual([...server.subscriptions], [["https://push.example.com/1", { p256dh: "p", auth: "a" }]]);
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await faults(page), []);
  }
  server.subscriptions.clear(); // it has forgotten: a page that is loaded tells it again, and asks nobody
  const told = page.waitForResponse((it) => it.url().endsWith("/push/subscriptions"));
  await page.reload();
  await told;
  await bellIs(page, "on");
  assert.equal(await page.evaluate(() => window.stub.asked), 0);
  assert.equal(server.subscriptions.size, 1);
  await page.click("[data-testid=bell]");
  await bellIs(page, "off");
  assert.equal(server.subscriptions.size, 0);
  await page.reload();
  await bellIs(page, "off");
  assert.equal(server.subscriptions.size, 0);
});

atBoth("bell: says why it cannot be rung", async (size) => {
  const denied = await openPage({ ...size, answer: "denied" });
  await denied.click("[data-testid=bell]");
  await bellIs(denied, "denied");
  assert.match(await denied.locator("#alert").innerText(), /does not allow notifications/);
  assert.deepEqual(await faults(denied), []);
  await denied.reload();
  await bellIs(denied, "denied");
  await denied.click("[data-testid=bell]");
  assert.match(await denied.locator("#alert").innerText(), /does not allow notifications/);
  assert.equal(await denied.evaluate(() => window.stub.asked), 0);

  const without = await browser.newContext(size);
  await without.addInitScript(() => delete window.PushManager);
  const page = await openPage({ context: without });
  await bellIs(page, "unsupported");
  await page.click("[data-testid=bell]");
  assert.match(await page.locator("#alert").innerText(), /no notifications for pages/);

  const insecure = await browser.newContext(size);
  await insecure.addInitScript(() => Object.defineProperty(window, "isSecureContext", { value: false }));
  const other = await openPage({ context: insecure });
  await bellIs(other, "insecure");
  await other.click("[data-testid=bell]");
  assert.match(await other.locator("#alert").innerText(), /need https/);
});

test("bell: a question that is left without an answer is asked again", async () => {
  const page = await openPage({ answer: "default" });
  await bellIs(page, "off");
  for (const asked of [1, 2]) {
    await page.click("[data-testid=bell]");
    await page.waitForFunction((it) => window.stub.asked === it, asked);
  }
  await bellIs(page, "off");
  assert.equal(await page.locator("#alert").isVisible(), false);
});

test("bell: what the server refuses, or a push service that is away, is said, and it stays off", async () => {
  const page = await openPage();
  server.intercept = (request, response, url) => {
    if (!url.pathname.startsWith("/push/")) return false;
    response.writeHead(422, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { code: "input_invalid", message: "no address" } }));
    return true;
  };
  await page.click("[data-testid=bell]");
  await textIs(page, "#alert", "no address (input_invalid)");
  await bellIs(page, "off");
  await page.evaluate(() => {
    PushManager.prototype.subscribe = async () => {
      throw new DOMException("Registration failed", "AbortError");
    };
  });
  await page.click("[data-testid=bell]");
  await textIs(page, "#alert", "This browser's notification service cannot be reached.");
  await bellIs(page, "off");
});

test("bell: under another key of the server's it subscribes anew", async () => {
  const page = await openPage();
  await ring(page);
  await page.evaluate(() => {
    const one = JSON.parse(localStorage.getItem("stub.subscription"));
    localStorage.setItem("stub.subscription", JSON.stringify({ ...one, key: "another" }));
  });
  const told = page.waitForResponse((it) => it.url().endsWith("/push/subscriptions"));
  await page.reload();
  await told;
  assert.equal([...server.subscriptions.keys()].at(-1), "https://push.example.com/2");
});

test("bell: who leaves hears no more", async () => {
  server.key = "0123456789abcdef";
  const page = await openPage();
  await page.fill("#key", server.key);
  await page.click("[data-testid=key-submit]");
  await ring(page);
  assert.equal(server.subscriptions.size, 1);
  await page.click("[data-testid=more]");
  await page.click("[data-testid=forget-key]");
  await page.waitForSelector("#key-dialog[open]");
  assert.equal(server.subscriptions.size, 0);
  await bellIs(page, "off");
});

test("push: what comes is shown, unless a page that is seen shows that conversation", async () => {
  const page = await openPage();
  await ring(page);
  const worker = await workerOf(page);
  await ask(page, "Hi");
  await turnIs(page, "finished");
  const here = await sessionOf(page);
  const other = { title: "Trains", body: "Waits for your answer", tag: "n1", timestamp: 1, silent: false, data: { session: "elsewhere" } };
  assert.deepEqual(await push(page, worker, { status: "waiting" }), [other]);
  assert.equal((await push(page, worker, { session_id: here })).length, 1, "it is seen");
  await hide(page);
  const [, failed] = await push(page, worker, { id: "n2", session_id: here, status: "failed", title: "" });
  assert.deepEqual([failed.title, failed.body, failed.tag], ["A conversation", "Failed", "n2"]);
});

test("push: where each message must be shown, it is, and is taken back when it is seen", async () => {
  const page = await openPage();
  await ring(page);
  const worker = await workerOf(page);
  await ask(page, "Hi");
  await turnIs(page, "finished");
  await worker.evaluate(() => {
    PushManager.prototype.getSubscription = async () => ({ endpoint: "https://web.push.apple.com/x" });
    registration.getNotifications = async ({ tag }) => [{ close: () => opened.push(`${tag} is closed`) }];
  });
  const [shown] = await push(page, worker, { session_id: await sessionOf(page) });
  assert.equal(shown.silent, true);
  assert.deepEqual(await worker.evaluate(() => opened), ["n1 is closed"]);
});

test("push: what was shown of a conversation is taken back once that is seen", async () => {
  const page = await openPage();
  await page.evaluate(() => {
    window.takenBack = [];
    const one = (session) => ({ data: { session }, close: () => window.takenBack.push(session) });
    ServiceWorkerRegistration.prototype.getNotifications = async () => [one("s1"), one("s2")];
  });
  await ask(page, "Hi");
  await turnIs(page, "finished");
  const session = await sessionOf(page);
  await page.waitForFunction((it) => window.takenBack.length > 0 && window.takenBack.every((one) => one === it), session);
});

test("push: a click leads to the page that shows it, to one that can, or to a new one", async () => {
  server.base = "/agents/";
  const page = await openPage();
  await ring(page);
  const worker = await workerOf(page);
  assert.equal(await worker.evaluate(() => registration.scope), server.url);
  await ask(page, "Hi");
  await turnIs(page, "finished");
  const first = await sessionOf(page);
  await beginAnew(page);
  await ask(page, "Hi again");
  await turnIs(page, "finished");
  const second = await sessionOf(page);
  assert.notEqual(first, second);
  const [closed, focused] = await click(worker, second);
  assert.equal(closed, "closed");
  assert.match(focused, /^focus /);
  assert.equal(await sessionOf(page), second);
  assert.deepEqual(await click(worker, first), ["closed", focused], "the one page there is goes there");
  await page.waitForSelector(`[data-session="${first}"]`);
  await turnIs(page, "finished");
  await page.evaluate(() => (document.getElementById("talking").hidden = false));
  assert.deepEqual(await click(worker, second), ["closed", `${server.url}#${second}`], "a call goes on");
  assert.equal((await click(worker, first))[1], focused);
  const elsewhere = await page.context().newPage(); // a page of this site that is none of chat
  await elsewhere.goto(`${server.url}static/icon.svg`);
  await page.close();
  assert.deepEqual(await click(worker, first), ["closed", `${server.url}#${first}`]);
});

test("push: a subscription that the browser has replaced is told by a page, or without one", async () => {
  const page = await openPage();
  await ring(page);
  const worker = await workerOf(page);
  server.subscriptions.clear();
  const told = page.waitForResponse((it) => it.url().endsWith("/push/subscriptions"));
  await happens(worker, "pushsubscriptionchange", {});
  await told;
  assert.deepEqual([...server.subscriptions.keys()], ["https://push.example.com/1"]);
  const blank = await page.context().newPage();
  await page.close();
  await happens(worker, "pushsubscriptionchange", { newSubscription: { endpoint: "https://push.example.com/new", keys: {} } });
  assert.equal(server.subscriptions.has("https://push.example.com/new"), true);
  await blank.close();
});
