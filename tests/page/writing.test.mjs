/** What people write on the page: with an input method, in any direction, by pasting; and where it stays until it is sent. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { answered, ask, atBoth, beginAnew, isInReach, open, openList, server, textIs, turnIs } from "./harness.mjs";
import { textScript } from "./mock.mjs";

/** An answer that goes on until the test says `go("on")`. */
const unfinished = () => [{ type: "TEXT_MESSAGE_START", messageId: "m1" }, { type: "TEXT_MESSAGE_CONTENT", messageId: "m1", delta: "one" }, { pause: "on" }, ...textScript("").slice(-2)];
const attached = (page, ...names) => page.waitForFunction((it) => [...document.querySelectorAll("[data-testid=attached] span")].map((one) => one.textContent).join() === it, names.join());
const file = (name, bytes = 2) => ({ name, mimeType: "text/plain", buffer: Buffer.alloc(bytes, 97) });
const typed = (page, text) => page.waitForFunction((it) => document.getElementById("message").value === it, text);

async function show(page, sessionId, said) {
  await openList(page);
  await page.click(`[data-session-id=${sessionId}] a`);
  await page.waitForFunction((it) => document.querySelector("[data-testid=user]")?.textContent === it, said);
}

/** Pastes or drops what this says, and returns whether the page did it in the browser's place. */
const give = (page, type, texts, files) => page.evaluate(([type, texts, files]) => {
  const data = new DataTransfer();
  for (const [kind, text] of Object.entries(texts)) data.setData(kind, text);
  for (const name of files) data.items.add(new File(["ab"], name, { type: name.endsWith("png") ? "image/png" : "text/plain" }));
  const field = document.getElementById("message");
  const event = type === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }) : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  field.dispatchEvent(event);
  return event.defaultPrevented;
}, [type, texts, files]);

test("page: keys of an input method are its own: they send, stop and leave nothing", async () => {
  server.script = (message) => (message === "wait" ? unfinished() : message === "ask" ? [{ type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: [{ id: "i", reason: "input_required", message: "Which?" }] } }] : textScript("Hello."));
  const page = await open();
  const input = await page.context().newCDPSession(page);
  /** As Chromium tells of a key during composition, and as Safari does of the one that ends it. */
  const press = async (key) => {
    await input.send("Input.imeSetComposition", { text: "にほん", selectionStart: 3, selectionEnd: 3 });
    await input.send("Input.dispatchKeyEvent", { type: "rawKeyDown", key, code: key, windowsVirtualKeyCode: 229 });
    await page.evaluate((it) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: it, keyCode: 229, bubbles: true, cancelable: true })), key);
  };
  await ask(page, "first");
  await turnIs(page, "finished");
  const holders = [
    ["[data-testid=edit-field]", () => page.click("[data-testid=edit-message]")],
    ["[data-testid=title-field]", () => page.locator("[data-session-id=s1] .rename").press("Enter")],
    ["#search", () => page.focus("#search")],
    ["#message", () => page.focus("#message")],
  ];
  server.session().title = "Another"; // there is no search for one
  await page.evaluate(() => dispatchEvent(new Event("focus")));
  await page.waitForSelector("#search:not([hidden])");
  for (const [holder, begin] of holders) {
    await begin();
    for (const key of ["Escape", "Enter"]) await press(key);
    assert.equal(await page.locator(holder).evaluate((it) => it === document.activeElement && it.value.includes("にほん")), true, holder);
    await page.keyboard.press("Escape"); // the composition's own, or the field's: both end it
    await page.locator(holder).evaluate((it) => it.isConnected && (it.value = ""));
    await page.keyboard.press("Escape");
  }
  assert.equal(server.runs.size, 1);
  await ask(page, "wait");
  await turnIs(page, "running");
  await press("Escape");
  await page.fill("#message", "");
  assert.ok(!server.log.some((it) => it.endsWith("/cancel")));
  await page.keyboard.press("Escape");
  await turnIs(page, "cancelled");
  await ask(page, "ask");
  await page.click("[data-testid=answer-text]");
  for (const key of ["Escape", "Enter"]) await press(key);
  assert.equal([...server.runs.values()].at(-1).answers, undefined);
  assert.equal(await page.locator(".turn").last().getAttribute("data-status"), "waiting");
});

test("page: what is written from right to left is laid out so, and code is not", async () => {
  const text = "שלום עולם, abc.\n\n- אחד `a = 1`\n- two\n\n> ציטוט\n\n| עמודה | ב |\n|--|:-|\n| 1 | 2 |\n\n```\nx = 1\n```\n\nplain";
  server.script = () => textScript(text);
  const page = await open();
  await page.fill("#message", "שלום, what is this?");
  const direction = (selector) => page.locator(selector).first().evaluate((it) => getComputedStyle(it).direction);
  assert.equal(await direction("#message"), "rtl");
  await page.press("#message", "Enter");
  await turnIs(page, "finished");
  await textIs(page, "[data-session-id=s1] .name", "שלום, what is this?");
  for (const selector of ["[data-testid=user]", "#title", "[data-session-id=s1] .name", ".md > p", ".md ul", ".md blockquote", ".md table"]) assert.equal(await direction(selector), "rtl", selector);
  for (const selector of [".md li code", ".md figure.code", ".md figure.code pre", ".md > p:last-child", "#composer"]) assert.equal(await direction(selector), "ltr", selector);
  const place = (selector) => page.locator(selector).first().evaluate((it) => {
    const range = document.createRange();
    range.selectNodeContents(it);
    const [outer, inner] = [(it.closest("td") ?? document.querySelector(".md")).getBoundingClientRect(), range.getBoundingClientRect()];
    return inner.left - outer.left > outer.right - inner.right ? "right" : "left";
  });
  for (const selector of [".md > p", ".md li p", ".md li:last-child p", ".md blockquote p", ".md td"]) assert.equal(await place(selector), "right", selector);
  for (const selector of [".md > p:last-child", ".md td.left"]) assert.equal(await place(selector), "left", selector);
  assert.ok(await page.evaluate(() => {
    const [first, second] = document.querySelectorAll(".md th");
    return first.getBoundingClientRect().left > second.getBoundingClientRect().left;
  }), "the first column is on the right");
});

test("page: a text that is pasted with a picture of it goes in, and files that come with their names are attached", async () => {
  const page = await open();
  const picture = ["image.png"];
  assert.equal(await give(page, "paste", { "text/plain": "a\tb\nc\td", "text/html": "<table></table>" }, picture), false);
  assert.equal(await give(page, "paste", { "text/plain": "see image.png" }, picture), false);
  await attached(page);
  assert.equal(await give(page, "paste", { "text/html": "<img>" }, picture), true);
  await attached(page, "image.png");
  assert.equal(await give(page, "paste", { "text/plain": "/home/me/a.txt\nb.txt\n" }, ["a.txt", "b.txt"]), true);
  await attached(page, "image.png", "a.txt", "b.txt");
});

atBoth("page: of several files those that fit are attached, and those that do not are named", async (size) => {
  const page = await open(size);
  const says = (text) => page.waitForFunction((it) => document.getElementById("alert").textContent === it, text);
  await page.setInputFiles("#files", [file("big.txt", 4e6), file("a.txt"), file("empty.txt", 0), file("b.txt")]);
  await says("A message takes 3 MB of files; with big.txt it would be 4 MB. Left out: big.txt, empty.txt.");
  await attached(page, "a.txt", "b.txt");
  await page.setInputFiles("#files", Array.from({ length: 10 }, (_, index) => file(`${index}.txt`)));
  await says("A message takes 10 files; 8.txt is one more. Left out: 8.txt, 9.txt.");
  await attached(page, "a.txt", "b.txt", ..."01234567".split("").map((it) => `${it}.txt`));
  await isInReach(page);
});

atBoth("page: what is typed and attached stays with its conversation, what is typed also over a reload", async (size) => {
  const page = await open(size);
  for (const said of ["one", "two"]) {
    await beginAnew(page);
    await ask(page, said);
    await turnIs(page, "finished");
  }
  await page.fill("#message", "for two\nalone");
  await page.setInputFiles("#files", [file("two.txt")]);
  await attached(page, "two.txt");
  const height = () => page.locator("#message").evaluate((it) => it.offsetHeight);
  const tall = await height();
  await show(page, "s1", "one");
  await typed(page, "");
  await attached(page);
  assert.ok((await height()) < tall);
  await page.fill("#message", "for one");
  await beginAnew(page);
  await typed(page, "");
  await page.fill("#message", "for a new one");
  await show(page, "s2", "two");
  await typed(page, "for two\nalone");
  await attached(page, "two.txt");
  assert.equal(await height(), tall);
  await page.reload();
  await typed(page, "for two\nalone");
  await show(page, "s1", "one");
  await typed(page, "for one");
  await beginAnew(page);
  await typed(page, "for a new one");
  await page.reload();
  await show(page, "s2", "two");
  await page.press("#message", "Enter");
  await page.waitForSelector(".turn:nth-child(2)[data-status=finished]");
  await page.reload();
  await turnIs(page, "finished");
  await typed(page, "");
  assert.deepEqual(JSON.parse(await page.evaluate(() => sessionStorage.getItem("gapless.drafts"))), [["s1", "for one"], [null, "for a new one"]]);
});

test("page: what is typed for a new conversation is its own once it has begun, and a file that is read meanwhile too", async () => {
  const page = await open();
  let begin;
  server.intercept = (request, response) => {
    if (request.method !== "POST" || request.url !== "/sessions" || begin) return false;
    begin = () => response.writeHead(201, { "content-type": "application/json" }).end(JSON.stringify(server.session()));
    return true;
  };
  const asked = page.waitForRequest((it) => it.method() === "POST" && it.url().endsWith("/sessions"));
  await ask(page, "one");
  await asked;
  await page.fill("#message", "and then");
  await page.setInputFiles("#files", [file("then.txt")]);
  await attached(page, "then.txt");
  begin();
  await answered(page, "Hello.");
  await page.evaluate(() => { // it is read when another conversation is shown
    const data = new DataTransfer();
    data.items.add(new File(["late"], "late.txt", { type: "text/plain" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    document.getElementById("new").click();
  });
  await typed(page, "");
  await attached(page);
  await show(page, "s1", "one");
  await typed(page, "and then");
  await attached(page, "then.txt", "late.txt");
});

test("page: what was to begin a conversation that is left at once is not lost", async () => {
  const page = await open();
  await ask(page, "one");
  await turnIs(page, "finished");
  server.intercept = (request) => request.method === "POST" && request.url === "/sessions"; // it does not answer
  const leave = { "another one": () => show(page, "s1", "one"), "a new one": () => page.click("#new") };
  for (const [name, go] of Object.entries(leave)) {
    await page.click("#new");
    await page.setInputFiles("#files", [file("a.txt")]);
    await attached(page, "a.txt");
    const asked = page.waitForRequest((it) => it.method() === "POST" && it.url().endsWith("/sessions"));
    await ask(page, "two");
    await asked;
    await go();
    if (name === "another one") await page.click("#new");
    await typed(page, "two");
    await attached(page, "a.txt");
    assert.equal(await page.locator(".turn").count(), 0);
    await page.fill("#message", "");
    await page.click('[aria-label="Remove a.txt"]');
  }
});

test("page: nothing is kept for a conversation that is gone, and of another tab nothing is known", async () => {
  const page = await open();
  for (const said of ["one", "two", "three"]) {
    await page.click("#new");
    await ask(page, said);
    await turnIs(page, "finished");
    await page.fill("#message", `for ${said}`);
    await page.setInputFiles("#files", [file(`${said}.txt`)]);
    await attached(page, `${said}.txt`);
  }
  const other = await open({ context: page.context(), url: `${server.url}#s2` });
  await answered(other, "Hello.");
  await typed(other, "");
  await other.fill("#message", "other");
  const remove = async (where, id) => {
    for (const _ of ["asked", "sure"]) await where.locator(`[data-session-id=${id}] .delete`).press("Enter");
    await page.waitForSelector(`[data-session-id=${id}]`, { state: "detached" });
  };
  const kept = () => page.evaluate(() => JSON.parse(sessionStorage.getItem("gapless.drafts") ?? "[]"));
  await remove(page, "s3"); // it is shown
  await typed(page, "");
  await attached(page);
  await remove(other, "s1");
  await page.reload();
  assert.deepEqual(await kept(), [["s2", "for two"]]);
  await remove(other, "s2"); // where it is shown
  await typed(other, "");
  await page.reload();
  assert.deepEqual(await kept(), []);
});

test("page: drafts have a bound, and go with the key", async () => {
  server.key = "k";
  const page = await open();
  await page.waitForSelector("#key-dialog[open]");
  await page.fill("#key", "k");
  await page.click("[data-testid=key-submit]");
  await page.evaluate(async () => {
    const { Drafts } = await import("./static/drafts.js");
    const drafts = new Drafts();
    for (let i = 0; i < 25; i += 1) drafts.keep(`s${i}`, i === 24 ? "x".repeat(199_999) : `${i}`);
    dispatchEvent(new Event("pagehide"));
    window.found = [drafts.of("s4"), drafts.of("s5"), JSON.parse(sessionStorage.getItem("gapless.drafts")).map(([id]) => id).join()];
    drafts.clear();
  });
  assert.deepEqual(await page.evaluate(() => window.found), ["", "5", "s24"]);
  await page.fill("#message", "secret");
  await page.waitForFunction(() => sessionStorage.getItem("gapless.drafts")?.includes("secret"));
  await page.click("[data-testid=more]");
  await page.click("[data-testid=forget-key]");
  await page.waitForSelector("#key-dialog[open]");
  assert.equal(await page.evaluate(() => sessionStorage.getItem("gapless.drafts")), null);
  assert.equal(await page.inputValue("#message"), "");
});

atBoth("page: a form that is half filled in, and the first of two answers, are there again", async (size) => {
  const interrupts = [
    { id: "a", reason: "confirm", message: "Sure?" },
    { id: "b", reason: "input_required", message: "Who?", responseSchema: { type: "object", required: ["name", "age"], properties: { name: { type: "string" }, age: { type: "integer" } } } },
  ];
  server.script = (message) => (message === "ask" ? [{ pause: "on" }, { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts } }] : textScript("Hello."));
  server.go("on");
  const page = await open(size);
  await ask(page, "else");
  await turnIs(page, "finished");
  await beginAnew(page);
  await ask(page, "ask");
  await turnIs(page, "waiting");
  await page.locator("[data-testid=approve]").press("Enter");
  await page.fill("[data-field=name] input", "Ada");
  await show(page, "s1", "else");
  await show(page, "s2", "ask");
  await turnIs(page, "waiting");
  assert.equal(await page.inputValue("[data-field=name] input"), "Ada");
  assert.equal(await page.locator("[data-interrupt-id=a] [aria-pressed]").innerText(), "Approve");
  await page.fill("[data-field=age] input", "36");
  const again = interrupts.map((it) => ({ ...it }));
  server.resume = (run) => [{ type: "RUN_STARTED", threadId: "t", runId: run.record.id }, { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: again } }];
  await page.press("[data-field=age] input", "Enter");
  await page.waitForFunction(() => document.querySelector("[data-field=name] input")?.value === ""); // asked anew, at once
  assert.deepEqual([...server.runs.values()].at(-1).answers.map(({ payload }) => payload), [{ approved: true }, { name: "Ada", age: 36 }]);
  assert.equal(await page.locator("[aria-pressed]").and(page.locator(".approval *")).count(), 0);
});
