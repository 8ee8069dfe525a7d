import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { answer, answered, ask, atBoth, beginAnew, browser, connectionIs, faults, isInReach, open, openList, server, textIs, turnIs } from "./harness.mjs";
import { textScript, words } from "./mock.mjs";

/** Waits until the server was asked something. */
async function serverWas(holds) {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** An answer that stops after each of its words until the test says `go("1")`, `go("2")` … */
function wordByWord(text) {
  const script = textScript(text);
  return script.flatMap((event, index) => (event.type === "TEXT_MESSAGE_CONTENT" ? [event, { pause: String(index) }] : [event]));
}

test("page: the text appears as it comes", async () => {
  server.script = () => wordByWord("one two three");
  const page = await open();
  assert.equal(await page.locator("#welcome").isVisible(), true);
  await ask(page, "Count");
  await answered(page, "one");
  assert.equal(await page.locator("#welcome").isVisible(), false);
  assert.equal(await page.locator(".turn").getAttribute("data-status"), "running");
  assert.equal(await page.locator("#stop").isVisible(), true);
  assert.equal(await page.locator("#connection").getAttribute("data-state"), "open");
  server.go("1");
  await answered(page, "one two");
  server.go("2");
  await answered(page, "one two three");
  server.go("3");
  await turnIs(page, "finished");
  assert.equal(await page.locator("[data-testid=user]").innerText(), "Count");
  assert.equal(await page.locator("#send").isVisible(), true);
  await connectionIs(page, "idle");
  assert.match(page.url(), /#s1$/);
  await page.waitForFunction(() => document.getElementById("title").textContent === "Count");
});

test("page: a reload in mid-answer continues the answer", async () => {
  server.script = () => wordByWord("one two three");
  const page = await open();
  await ask(page, "Count");
  await answered(page, "one");
  await page.reload();
  await answered(page, "one");
  assert.equal(await page.locator("[data-testid=user]").innerText(), "Count");
  server.go("1");
  await page.reload();
  server.go("2");
  server.go("3");
  await turnIs(page, "finished");
  await answered(page, "one two three");
  assert.equal(await page.locator(".turn").count(), 1);
  assert.equal(server.runs.size, 1);
  await page.reload();
  await turnIs(page, "finished");
  await answered(page, "one two three");
});

test("page: opened without an address, it shows the last conversation", async () => {
  const page = await open();
  await ask(page, "Hi");
  await turnIs(page, "finished");
  const other = await open({ context: page.context() });
  await answered(other, "Hello.");
  assert.match(other.url(), /#s1$/);
});

test("page: a reload before the server has the question does not lose it", async () => {
  let stuck = true;
  server.intercept = (request) => stuck && request.method === "POST" && request.url.endsWith("/runs");
  const page = await open();
  await ask(page, "Hi");
  await page.waitForFunction(() => sessionStorage.getItem("gapless.unsent"));
  const { runId } = JSON.parse(await page.evaluate(() => sessionStorage.getItem("gapless.unsent")));
  stuck = false;
  await page.reload();
  await turnIs(page, "finished");
  await answered(page, "Hello.");
  assert.deepEqual([...server.runs.keys()], [runId]);
});

test("page: a lost connection shows and heals", async () => {
  server.script = () => wordByWord("one two three");
  const page = await open();
  await ask(page, "Count");
  await answered(page, "one");
  let down = true;
  server.intercept = (request, response) => down && Boolean(response.destroy());
  server.cut();
  await connectionIs(page, "reconnecting");
  assert.equal(await page.locator("#connection-text").innerText(), "Reconnecting…");
  assert.equal(await page.locator("#live").innerText(), "Reconnecting…");
  server.go("1");
  server.go("2");
  down = false;
  await answered(page, "one two three");
  await connectionIs(page, "open");
  server.go("3");
  await turnIs(page, "finished");
});

test("page: cut again and again, the text is that of the journal", async () => {
  const text = Array.from({ length: 300 }, (_, i) => `word${i}`).join(" ");
  server.script = () => textScript(text);
  let left = 25;
  server.intercept = (request, response) => {
    if (!request.url.includes("/events")) return false;
    const write = response.write.bind(response);
    let room = left > 0 ? 1500 : Infinity;
    response.write = (chunk) => {
      write(chunk.slice(0, Math.max(0, room)));
      room -= chunk.length;
      if (room >= 0) return;
      left -= 1;
      if (left % 2) response.destroy();
      else response.end();
    };
    return false;
  };
  const page = await open();
  await ask(page, "Much");
  await turnIs(page, "finished");
  assert.equal(left, 0);
  assert.equal(await answer(page), text);
});

test("page: Stop ends the answer and keeps its text", async () => {
  server.script = () => wordByWord("one two three");
  const page = await open();
  await ask(page, "Count");
  await answered(page, "one");
  await page.click("#stop");
  await turnIs(page, "cancelled");
  assert.equal(await answer(page), "one");
  assert.equal(await page.locator("[data-testid=run-status]").innerText(), "Stopped");
  assert.ok(server.log.some((it) => it.startsWith("POST /runs/") && it.endsWith("/cancel")));
  await page.reload();
  await turnIs(page, "cancelled");
  assert.equal(await answer(page), "one");
});

test("page: Escape stops, Shift+Enter starts a line, Enter sends, the focus stays", async () => {
  server.script = () => wordByWord("one two");
  const page = await open();
  await page.waitForFunction(() => document.activeElement.id === "message");
  await page.keyboard.type("a");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("b");
  assert.equal(server.runs.size, 0);
  await page.keyboard.press("Enter");
  await answered(page, "one");
  assert.equal(await page.locator("[data-testid=user]").innerText(), "a\nb");
  assert.equal(await page.evaluate(() => document.activeElement.id), "message");
  await page.keyboard.press("Escape");
  await turnIs(page, "cancelled");
  assert.equal(await page.evaluate(() => document.activeElement.id), "message");
});

test("page: an error shows in place, with its code, under the partial text", async () => {
  server.script = () => [...textScript("The answer begins").slice(0, -2), { type: "RUN_ERROR", code: "worker_lost", message: "The worker was lost." }];
  const page = await open();
  await ask(page, "Hi");
  for (let round = 0; round < 2; round += 1) {
    await turnIs(page, "failed");
    assert.equal(await answer(page), "The answer begins");
    assert.equal(await page.locator("[data-testid=run-error]").getAttribute("data-code"), "worker_lost");
    assert.match(await page.locator("[data-testid=run-status]").innerText(), /Failed\s+worker_lost The worker was lost\./);
    assert.equal(await page.locator(".text[data-interrupted]").count(), 1);
    await page.reload();
  }
  server.script = () => textScript("Better.");
  await ask(page, "Again");
  await answered(page, "Better.");
});

test("page: a turn says when it was asked, after a reload by the server's clock", async () => {
  const page = await open();
  const asked = page.locator("[data-testid=asked-at]");
  const before = Date.now();
  await ask(page, "Hi");
  await turnIs(page, "finished");
  const at = Date.parse(await asked.getAttribute("datetime"));
  assert.ok(before <= at && at <= Date.now());
  await page.reload();
  await turnIs(page, "finished");
  assert.equal(Date.parse(await asked.getAttribute("datetime")), [...server.runs.values()][0].record.created_at);
});

test("page: a cursor that is gone stops and says so", async () => {
  server.script = () => wordByWord("one two");
  const page = await open();
  await ask(page, "Hi");
  await answered(page, "one");
  server.intercept = (request, response) => {
    if (!request.url.includes("/events")) return false;
    response.writeHead(410, { "content-type": "application/json" });
    return Boolean(response.end('{"error":{"code":"cursor_expired","message":"Too old."}}'));
  };
  server.cut();
  await turnIs(page, "failed");
  assert.equal(await page.locator("[data-testid=run-error]").innerText(), "cursor_expired Too old.");
  assert.equal(await answer(page), "one");
});

test("page: steps, reasoning, tools, subagents and notices show as they happen", async () => {
  server.script = () => [
    { type: "STEP_STARTED", stepName: "plan" },
    { type: "REASONING_MESSAGE_START", messageId: "q" },
    { type: "REASONING_MESSAGE_CONTENT", messageId: "q", delta: "Let me <b>think</b>." },
    { pause: "thought" },
    { type: "REASONING_MESSAGE_END", messageId: "q" },
    { type: "STEP_FINISHED", stepName: "plan" },
    { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "get_forecast" },
    { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: '{"city":' },
    { pause: "args" },
    { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: '"Oslo"}' },
    { type: "TOOL_CALL_END", toolCallId: "c" },
    { pause: "result" },
    { type: "TOOL_CALL_RESULT", messageId: "t", toolCallId: "c", content: '{"sky":"rain"}' },
    { type: "SUBAGENT_STARTED", subagentRunId: "a", name: "writer" },
    { type: "CUSTOM", name: "gapless.notice", value: { code: "history_cut", message: "Old turns were left out." } },
    { type: "TEXT_MESSAGE_START", messageId: "m", subagentRunId: "a" },
    { type: "TEXT_MESSAGE_CONTENT", messageId: "m", delta: "Rain.", subagentRunId: "a" },
    { type: "TEXT_MESSAGE_END", messageId: "m", subagentRunId: "a" },
    { type: "SUBAGENT_FINISHED", subagentRunId: "a" },
    { type: "RUN_FINISHED", outcome: { type: "success" } },
  ];
  const page = await open();
  await ask(page, "Weather?");
  await textIs(page, ".reasoning.open .plain", "Let me <b>think</b>.");
  assert.equal(await page.locator("[data-testid=step]").getAttribute("data-state"), "running");
  await page.click(".reasoning summary");
  assert.equal(await page.locator(".reasoning .plain").isVisible(), true);
  server.go("thought");
  const tool = page.locator("[data-testid=tool]");
  await textIs(page, ".tool pre", '{"city":');
  await tool.locator("summary").click();
  assert.equal(await tool.locator("pre").isVisible(), true);
  server.go("args");
  await page.waitForFunction(() => document.querySelector(".tool pre").textContent.includes("Oslo"));
  assert.equal(await tool.getAttribute("data-state"), "running");
  server.go("result");
  await turnIs(page, "finished");
  assert.equal(await tool.getAttribute("data-state"), "done");
  assert.equal(await page.locator("[data-testid=tool-result]").innerText(), '{\n  "sky": "rain"\n}');
  assert.equal(await page.locator(".subagent .inside .text").innerText(), "Rain.");
  assert.match(await page.locator(".subagent .who").innerText(), /writer/);
  assert.equal(await page.locator("[data-testid=notice]").innerText(), "Old turns were left out.");
  assert.equal(await page.locator("[data-testid=step]").getAttribute("data-state"), "done");
});

atBoth("page: images of an answer are shown, those that the server keeps are fetched with the key, and files are saved", async (size) => {
  const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  const file = (value) => ({ type: "CUSTOM", name: "gapless.file", value });
  server.script = () => [
    file({ mimeType: "image/png", data: png }),
    file({ mimeType: "image/png", name: "kept.png", size: 70, blob: "ab12", url: "/elsewhere/ab12" }),
    file({ mimeType: "image/svg+xml", data: "PHN2Zy8+" }),
    file({ mimeType: "image/png", blob: "gone", url: "/elsewhere/gone" }),
    { type: "RUN_FINISHED", outcome: { type: "success" } },
  ];
  const asked = [];
  server.intercept = async (request, response, url) => {
    if (!url.pathname.includes("/blobs/")) return false;
    asked.push(`${url.pathname.split("/").slice(-2).join("/")} ${request.headers.authorization}`);
    if (url.pathname.endsWith("gone")) return Boolean(response.writeHead(404).end());
    return Boolean(response.writeHead(200, { "content-type": "image/png" }).end(Buffer.from(png, "base64")));
  };
  server.key = "k";
  const page = await open(size);
  await page.waitForSelector("#key-dialog[open]");
  await page.fill("#key", "k");
  await page.click("[data-testid=key-submit]");
  await page.waitForSelector("#key-dialog:not([open])", { state: "attached" });
  await ask(page, "Draw.");
  await turnIs(page, "finished");
  await page.waitForFunction(() => [...document.querySelectorAll(".file img")].filter((img) => img.naturalWidth === 1).length === 2);
  await page.waitForFunction(() => document.querySelectorAll(".file")[3].innerText.includes("cannot be fetched: 404"));
  assert.deepEqual(asked.sort(), ["blobs/ab12 Bearer k", "blobs/gone Bearer k"]);
  assert.equal(await page.locator(".file").nth(2).locator("img").count(), 0, "what may hold a script is only saved");
  const saving = page.waitForEvent("download");
  await page.locator("[data-testid=file-save]").nth(1).click();
  assert.equal((await saving).suggestedFilename(), "kept.png");
});

test("page: beside a file stands what is wrong, and nothing while nothing is", async () => {
  const value = { mimeType: "text/plain", name: "a.txt", blob: "gone", url: "/elsewhere/gone" };
  server.script = () => [{ type: "CUSTOM", name: "gapless.file", value }, { type: "RUN_FINISHED", outcome: { type: "success" } }];
  const page = await open();
  await ask(page, "Save");
  await turnIs(page, "finished");
  assert.equal(await page.locator(".file .error").isVisible(), false);
  await page.click("[data-testid=file-save]");
  await page.locator(".file .error").waitFor();
  assert.match(await page.locator(".file .error").innerText(), /cannot be fetched: 404/);
});

atBoth("page: artifacts of an answer are saved, also after a reload", async (size) => {
  const artifact = (name, version) => ({ type: "CUSTOM", name: "gapless.artifact", value: { name, version } });
  server.script = () => [artifact("user:notes/a b.txt", 1), artifact("plan.bin", 0), artifact("plan.bin", 0), artifact("gone.txt", 3), ...textScript("Kept.")];
  const at = "/apps/mock/users/u/sessions/s1/artifacts/";
  const parts = { [`${at}user%3Anotes/a%20b.txt/versions/1`]: { text: "kept" }, [`${at}plan.bin/versions/0`]: { inlineData: { data: "-_8=", mimeType: "application/x-plan" } } };
  server.intercept = (request, response, url) => {
    if (!url.pathname.startsWith("/apps/")) return false;
    const part = parts[url.pathname];
    return Boolean(response.writeHead(part ? 200 : 404).end(JSON.stringify(part ?? { error: { code: "not_found", message: "There is none." } })));
  };
  const page = await open(size);
  await ask(page, "Keep");
  await turnIs(page, "finished");
  for (const _ of [1, 2]) {
    assert.deepEqual(await page.locator(".file").allInnerTexts(), ["Save user:notes/a b.txt", "Save plan.bin", "Save gone.txt"]);
    const saved = [];
    for (const place of [0, 1]) {
      const [file] = await Promise.all([page.waitForEvent("download"), page.locator("[data-testid=file-save]").nth(place).click()]);
      saved.push([file.suggestedFilename(), await readFile(await file.path(), "latin1")]);
    }
    assert.deepEqual(saved, [["a b.txt", "kept"], ["plan.bin", "\xfb\xff"]]);
    await page.locator("[data-testid=file-save]").nth(2).click();
    await page.waitForFunction(() => document.querySelectorAll(".file")[2].innerText.includes("cannot be fetched: There is none."));
    await page.reload();
    await turnIs(page, "finished");
  }
});

test("page: an interrupt asks, and the answer goes on in the same turn", async () => {
  for (const approved of [true, false]) {
    server.script = () => [
      { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "send_mail" },
      { type: "TOOL_CALL_END", toolCallId: "c" },
      { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: [{ id: "i1", reason: "tool_call", message: "Send it?" }] } },
    ];
    const page = await open();
    await ask(page, "Mail");
    await turnIs(page, "waiting");
    await page.reload();
    await turnIs(page, "waiting");
    assert.equal(await page.locator(".approval p").innerText(), "Send it?");
    const other = await open({ context: page.context(), url: page.url() });
    await turnIs(other, "waiting");
    await page.click(`[data-testid=${approved ? "approve" : "deny"}]`);
    await turnIs(page, "finished");
    assert.match(await answer(page), /Done\./);
    assert.deepEqual([...server.runs.values()].at(-1).answers, [
      { interruptId: "i1", status: approved ? "resolved" : "cancelled", payload: { approved } },
    ]);
    await turnIs(other, "finished");
    assert.equal(await other.locator(".approval").count(), 0);
    await page.context().close();
  }
});

test("page: several interrupts are answered together", async () => {
  const interrupts = ["a", "b"].map((id) => ({ id, reason: "tool_call", message: `May I ${id}?` }));
  server.script = () => [{ type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts } }];
  const page = await open();
  await ask(page, "Two");
  await turnIs(page, "waiting");
  await page.click("[data-interrupt-id=b] [data-testid=deny]");
  assert.equal(await page.locator("[data-interrupt-id=b] [aria-pressed]").innerText(), "Deny");
  assert.equal([...server.runs.values()][0].answers, undefined);
  // A refused answer gives the choice back.
  server.intercept = (request, response) => request.url.endsWith("/input") && Boolean(response.writeHead(500).end());
  await page.click("[data-interrupt-id=a] [data-testid=approve]");
  await page.waitForSelector("#alert:not([hidden])");
  server.intercept = null;
  await page.click("[data-interrupt-id=b] [data-testid=deny]");
  await page.click("[data-interrupt-id=a] [data-testid=approve]");
  await turnIs(page, "finished");
  assert.deepEqual([...server.runs.values()][0].answers.map((it) => [it.interruptId, it.status]), [["b", "cancelled"], ["a", "resolved"]]);
});

/** A run that calls a tool, if it is named, and asks this. */
const asking = (interrupt, { name, args = "{}" } = {}) => [
  ...(name ? [
    { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: name },
    { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: args },
    { type: "TOOL_CALL_END", toolCallId: "c" },
  ] : []),
  { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: [{ id: "i", reason: "input_required", ...(name ? { toolCallId: "c" } : {}), ...interrupt }] } },
];

const APPROVAL = { type: "object", properties: { approved: { type: "boolean" }, editedArgs: { type: "object" }, reason: { type: "string" } }, required: ["approved"] };

atBoth("page: a question with a schema is a form, which says what is wrong", async (size) => {
  const responseSchema = {
    type: "object",
    required: ["name", "people", "day", "hall", "wants", "home", "news", "sure"],
    properties: {
      name: { type: "string", title: "Your name", minLength: 2, description: "As in your passport" },
      people: { type: "integer", minimum: 1, maximum: 9 },
      price: { anyOf: [{ type: "number" }, { type: "null" }], default: null },
      day: { type: "string", format: "date", default: "2026-12-01" },
      hall: { $ref: "#/$defs/Hall" },
      size: { enum: ["S", "M", "L"] },
      wants: { type: "array", items: { enum: ["tea", "cake", "rest"] }, minItems: 1 },
      home: { type: "object", required: ["city"], properties: { city: { type: "string" }, zip: { type: "string", pattern: "^[0-9]{4}$" } } },
      names: { type: "array", items: { type: "string" } },
      news: { type: "boolean", default: true },
      sure: { type: "boolean" },
      extra: {},
    },
    $defs: { Hall: { oneOf: [{ const: 1, title: "Small hall" }, { const: 2, title: "Great hall" }] } },
  };
  server.script = () => asking({ message: "Whom shall I book for?", responseSchema });
  const page = await open(size);
  await ask(page, "Book");
  await turnIs(page, "waiting");
  assert.equal(await page.locator("[data-testid=approve]").count(), 0, "there is no yes or no to it");
  await page.waitForFunction(() => document.getElementById("live").textContent === "A question for you: Whom shall I book for?");
  const field = (name) => page.locator(`.approval [data-field=${name}]`);
  assert.match(await field("name").innerText(), /Your name\s+As in your passport/);
  await field("name").locator("input").fill("A");
  await field("people").locator("input").fill("many");
  await field("home").locator("[data-field=zip] input").fill("12");
  await field("name").locator("input").press("Enter");
  const problems = await page.locator(".problem:not([hidden])").allInnerTexts();
  assert.deepEqual(problems, ["At least 2 characters.", "A number.", "Choose one.", "Choose at least one.", "Fill this in.", "It has to be of the form ^[0-9]{4}$.", "Choose one."]);
  assert.equal(await field("name").locator("input").evaluate((it) => it === document.activeElement && it.ariaInvalid), "true");
  await isInReach(page);
  await field("name").locator("input").fill("Ada");
  await field("people").locator("input").fill("2");
  await field("hall").getByText("Great hall").click();
  await field("size").locator("select").selectOption({ label: "M" });
  await field("wants").getByText("tea").click();
  await field("wants").getByText("rest").click();
  await field("home").locator("[data-field=city] input").fill("Bern");
  await field("home").locator("[data-field=zip] input").fill("3000");
  await field("names").getByText("Add one").click();
  await page.keyboard.type("Eve");
  await field("sure").getByText("No").click();
  await field("extra").locator("textarea").fill('[1, "x"]');
  await field("people").locator("input").press("Enter");
  await turnIs(page, "finished");
  assert.deepEqual([...server.runs.values()][0].answers, [{
    interruptId: "i",
    status: "resolved",
    payload: { name: "Ada", people: 2, day: "2026-12-01", hall: 2, size: "M", wants: ["tea", "rest"], home: { city: "Bern", zip: "3000" }, names: ["Eve"], news: true, sure: false, extra: [1, "x"] },
  }]);
  await page.waitForFunction(() => ["message", "scroll"].includes(document.activeElement.id));
});

atBoth("page: a question gets the answer that it can take, and no button that cannot work", async (size) => {
  const external = { reason: "tool_call", message: "order is executed outside of the agent; answer with its result.", metadata: { kind: "external" } };
  const approval = { reason: "tool_call", message: "Send it?", responseSchema: APPROVAL, metadata: { kind: "approval", toolName: "mail", arguments: { to: "all", copies: 2 } } };
  const mail = { name: "mail", args: '{"to":"all","copies":2}' };
  const confirmation = { reason: "tool_call", message: "Go?", responseSchema: { type: "object", properties: { approved: { type: "boolean" }, payload: {} } }, metadata: { kind: "approval", toolName: "mail", adk: { args: { toolConfirmation: { payload: { days: 3 } } } } } };
  const cases = [
    [asking({ message: "Which city?" }), ["Send", "Decline"], (it) => it.locator("textarea").fill("Oslo"), { key: "Enter" }, ["resolved", "Oslo"]],
    [asking({ message: "Which city?", responseSchema: { type: "string", minLength: 3 } }), ["Send", "Decline"], async () => {}, { press: "decline" }, ["cancelled", null]],
    [asking(external, { name: "order" }), ["Send the result", "It failed"], (it) => it.locator("textarea").fill('{"ticket": 7}'), { key: "Enter" }, ["resolved", { ticket: 7 }]],
    [asking(external, { name: "order" }), ["Send the result", "It failed"], (it) => it.locator("textarea").fill("sold out"), { press: "decline" }, ["cancelled", { error: "sold out" }]],
    [asking({ reason: "credential_required", message: "The agent needs you to sign in.", metadata: { kind: "credential" } }), ["Go on without"], async () => {}, { press: "decline" }, ["cancelled", { error: "The user did not sign in." }]],
    [asking({ reason: "confirm", message: "Sure?" }), ["Approve", "Deny"], async () => {}, { press: "approve" }, ["resolved", { approved: true }]],
    [asking(confirmation, mail), ["Approve", "Deny"], (it) => it.locator("[data-field=days] input").fill("5"), { press: "approve" }, ["resolved", { approved: true, payload: { days: 5 } }]],
    [asking(approval, mail), ["Edit the arguments", "Approve", "Deny"], async (it) => {
      await it.locator("[data-testid=edit-arguments]").click();
      await it.locator("[data-field=to] input").fill("Ada");
    }, { press: "approve" }, ["resolved", { approved: true, editedArgs: { to: "Ada", copies: 2 } }]],
    [asking(approval, mail), ["Edit the arguments", "Approve", "Deny"], (it) => it.locator("[data-testid=deny-reason]").fill("Not now"), { key: "Enter" }, ["resolved", { approved: false, reason: "Not now" }]],
  ];
  server.resume = (run, resume) => [
    { type: "RUN_STARTED", input: { resume } },
    ...(run.events.some((it) => it.type === "TOOL_CALL_START") ? [{ type: "TOOL_CALL_RESULT", messageId: "t", toolCallId: "c", content: "no", denied: resume[0].payload?.approved === false }] : []),
    ...textScript("Done."),
  ];
  const page = await open(size);
  for (const [script, buttons, fill, { press, key }, [status, payload]] of cases) {
    server.script = () => script;
    await beginAnew(page);
    await ask(page, "Do");
    await turnIs(page, "waiting");
    const form = page.locator(".approval");
    if (script.length > 1) assert.equal(await page.locator("[data-testid=tool]").getAttribute("data-state"), "waiting");
    assert.deepEqual(await form.locator("button").allInnerTexts(), buttons);
    await fill(form);
    await isInReach(page);
    if (key) await page.keyboard.press(key);
    else await form.locator(`[data-testid=${press}]`).press("Enter");
    await turnIs(page, "finished");
    assert.deepEqual([...server.runs.values()].at(-1).answers, [{ interruptId: "i", status, payload }]);
    // On a phone the message's field would bring the keyboard up.
    await page.waitForFunction((it) => document.activeElement.id === it, size.isMobile ? "scroll" : "message");
  }
  for (const _ of [1, 2]) {
    await page.waitForSelector("[data-testid=tool][data-state=denied]");
    assert.equal(await page.locator(".tool .state").innerText(), "denied");
    await page.reload();
    await turnIs(page, "finished");
  }
});

atBoth("page: who approves a call sees what it is called with", async (size) => {
  const script = '<img src=x onerror="document.title=1">';
  server.script = () => [
    { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "send_mail" },
    { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: `{"to": "everyone", "text": ${JSON.stringify(script)}}` },
    { type: "TOOL_CALL_END", toolCallId: "c" },
    { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: [{ id: "i1", reason: "tool_call", message: "Send it?", toolCallId: "c" }] } },
  ];
  const page = await open(size);
  await ask(page, "Mail");
  await turnIs(page, "waiting");
  const shown = await page.locator("[data-testid=approval-call]").innerText();
  assert.deepEqual(JSON.parse(shown.replace(/^send_mail /, "")), { to: "everyone", text: script });
  assert.equal(await page.locator(".approval img").count(), 0);
});

atBoth("page: a message is asked again and edited, versions stay reachable, and the conversation goes on from the one that is shown", async (size) => {
  let told = 0;
  server.script = (message) => textScript(`${message} ${(told += 1)}`);
  const page = await open(size);
  const shown = async () => [await page.locator("[data-testid=user]").allInnerTexts(), await page.locator(".answer").allInnerTexts()];
  const places = () => [...server.runs.values()].map(({ record }) => record.after_run_id);
  const act = (turn, name) => page.locator(".turn").nth(turn).locator(`[data-testid=${name}]`);
  const says = (text) => page.waitForFunction((it) => [...document.querySelectorAll(".answer")].some((one) => one.textContent.trim() === it), text);
  await ask(page, "one");
  await says("one 1");
  await turnIs(page, "finished");
  await ask(page, "two");
  await says("two 2");
  await turnIs(page, "finished");
  const [first, second] = server.runs.keys();
  await act(1, "ask-again").click();
  await says("two 3");
  await turnIs(page, "finished");
  assert.deepEqual(await shown(), [["one", "two"], ["one 1", "two 3"]]);
  assert.equal(await act(1, "versions").innerText().then((it) => it.replace(/\s+/g, " ")), "‹ 2 of 2 ›");
  assert.equal(await act(0, "versions").isVisible(), false);
  await act(0, "edit-message").click();
  await page.waitForFunction(() => document.activeElement.dataset.testid === "edit-field");
  await isInReach(page);
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), "edit-message");
  await page.keyboard.press("Enter");
  await page.keyboard.type("!");
  await page.keyboard.press("Enter");
  await says("one! 4");
  await turnIs(page, "finished");
  assert.deepEqual(await shown(), [["one!"], ["one! 4"]]);
  assert.deepEqual(places(), [undefined, undefined, first, ""]);
  await page.reload();
  await says("one! 4");
  await act(0, "older-version").click();
  assert.deepEqual(await shown(), [["one", "two"], ["one 1", "two 3"]]);
  await act(1, "older-version").click();
  assert.deepEqual(await shown(), [["one", "two"], ["one 1", "two 2"]]);
  assert.equal(await page.locator("#live").innerText(), "Version 1 of 2");
  await ask(page, "three");
  await says("three 5");
  await turnIs(page, "finished");
  assert.deepEqual(await shown(), [["one", "two", "three"], ["one 1", "two 2", "three 5"]]);
  assert.deepEqual(places(), [undefined, undefined, first, "", second]);
  await page.reload();
  await says("three 5");
  assert.deepEqual(await shown(), [["one", "two", "three"], ["one 1", "two 2", "three 5"]]);
});

atBoth("page: an answer is copied as Markdown, a failed one tried again, and neither while one is coming", async (size) => {
  const markdown = "**Bold** and\n\n```js\nlet x = 1;\n```";
  server.script = () => [...textScript(markdown).slice(0, -1), { type: "RUN_ERROR", code: "model_failed", message: "Away." }];
  const page = await open({ ...size, permissions: ["clipboard-read", "clipboard-write"] });
  await ask(page, "Code");
  await turnIs(page, "failed");
  for (const [button, text] of [["[data-testid=copy-answer]", markdown], ["figure .copy", "let x = 1;"]]) {
    await page.evaluate((it) => { // it says so for a moment only
      const node = document.querySelector(it);
      window.said = "";
      new MutationObserver(() => (window.said ||= node.textContent)).observe(node, { childList: true });
    }, button);
    await page.click(button);
    await page.waitForFunction(() => window.said);
    assert.equal(await page.evaluate(() => window.said), "Copied");
    assert.equal((await page.evaluate(() => navigator.clipboard.readText())).trim(), text);
  }
  server.script = () => wordByWord("Better now");
  assert.equal(await page.locator("[data-testid=ask-again]").innerText(), "Try again");
  await page.click("[data-testid=ask-again]");
  await answered(page, "Better");
  assert.equal(await page.locator(".turn").count(), 1);
  assert.deepEqual(await page.locator(".act:visible").allInnerTexts(), []);
  server.go("1");
  server.go("2");
  await turnIs(page, "finished");
  await page.waitForFunction(() => document.documentElement.dataset.busy === "false");
  assert.deepEqual(await page.locator(".act:visible").allInnerTexts(), ["Copy", "Ask again", "Edit", "‹", "›"]);
});

// What answers without words: a call of a tool alone, or nothing at all.
function toolAloneOrNothing(message) {
  const end = { type: "RUN_FINISHED", outcome: { type: "success" } };
  return message === "tool" ? [
    { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "note" },
    { type: "TOOL_CALL_RESULT", messageId: "m", toolCallId: "c", content: "ok" },
    end,
  ] : [end];
}

test("page: an empty answer is said to be empty, and one of tools alone is not", async () => {
  server.script = toolAloneOrNothing;
  const page = await open();
  await ask(page, "tool");
  await turnIs(page, "finished");
  assert.equal(await page.locator("[data-testid=empty]").count(), 0);
  await ask(page, "nothing");
  await page.waitForSelector(".turn:nth-child(2)[data-status=finished]");
  assert.equal(await page.locator(".turn:last-child .foot").innerText(), "The answer is empty");
  await page.reload();
  await page.waitForSelector(".turn:nth-child(2)[data-status=finished]");
  assert.equal(await page.locator("[data-testid=empty]").count(), 1);
});

test("page: who listens hears that an answer is empty, or complete without words", async () => {
  server.script = toolAloneOrNothing;
  const page = await open();
  await ask(page, "nothing");
  await textIs(page, "#live", "The answer is empty");
  await ask(page, "tool");
  await textIs(page, "#live", "The answer is complete");
});

test("page: nothing moves for who wants less motion", async () => {
  server.script = () => [{ pause: "1" }, ...wordByWord("one two")];
  const page = await open({ reducedMotion: "reduce" });
  const moving = () => page.evaluate(() => document.getAnimations().map((it) => it.animationName));
  await ask(page, "Count");
  await page.waitForSelector(".turn.thinking");
  assert.deepEqual(await moving(), []);
  server.go("1");
  await page.waitForSelector(".md.open");
  assert.deepEqual(await moving(), []);
});

test("page: with several agents, one is chosen, and each answer says whose it is", async () => {
  server.agents = ["support", "<b>sales</b>"];
  const page = await open();
  await page.waitForSelector("#agent:not([hidden])");
  assert.deepEqual(await page.locator("#agent option").allInnerTexts(), server.agents);
  await ask(page, "Hi");
  await turnIs(page, "finished");
  await page.selectOption("#agent", "<b>sales</b>");
  await ask(page, "Again");
  await page.waitForSelector(".turn:nth-child(2)[data-status=finished]");
  assert.deepEqual([...server.runs.values()].map(({ record }) => record.agent), server.agents);
  assert.deepEqual(await page.locator("[data-testid=by]").allInnerTexts(), server.agents);
  await page.reload();
  await page.waitForSelector(".turn:nth-child(2)[data-status=finished]");
  assert.deepEqual(await page.locator("[data-testid=by]").allInnerTexts(), server.agents);
  await page.waitForFunction(() => document.getElementById("agent").value === "<b>sales</b>"); // the one that the conversation had
  await page.click("#new");
  assert.equal(await page.inputValue("#agent"), "<b>sales</b>", "and a new one begins with the one that was chosen");
});

test("page: one agent is no choice", async () => {
  const page = await open();
  await ask(page, "Hi");
  await turnIs(page, "finished");
  await page.waitForSelector("#agent option", { state: "attached" }); // it knows of one
  assert.equal(await page.locator("#agent").isVisible(), false);
  assert.equal(await page.locator("[data-testid=by]").isVisible(), false);
});

test("page: two tabs show the same run, and either can stop it", async () => {
  server.script = () => wordByWord("one two three");
  const first = await open();
  await ask(first, "Hi");
  await answered(first, "one");
  const second = await open({ context: first.context(), url: first.url() });
  await answered(second, "one");
  server.go("1");
  for (const page of [first, second]) await answered(page, "one two");
  await second.click("#stop");
  for (const page of [first, second]) await turnIs(page, "cancelled");
  // A question asked in one tab appears in the other, which sees the answer grow.
  await ask(second, "More");
  await first.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
  await answered(first, "one two");
  server.go("2");
  server.go("3");
  for (const page of [first, second]) await turnIs(page, "finished");
  assert.equal(await answer(first), await answer(second));
});

test("page: questions from another browser appear by themselves", async () => {
  const first = await open();
  await ask(first, "Hi");
  await turnIs(first, "finished");
  server.begin({ run_id: "elsewhere", session_id: "s1", message: "From my phone" });
  await first.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
  server.begin({ run_id: "elsewhere-2", session_id: "s1", message: "Once more" });
  await first.waitForFunction(() => document.querySelectorAll(".turn").length === 3);
  assert.deepEqual(await first.locator("[data-testid=user]").allInnerTexts(), ["Hi", "From my phone", "Once more"]);
});

test("page: a busy session gives the question back", async () => {
  const page = await open();
  await ask(page, "Hi");
  await turnIs(page, "finished");
  server.script = () => wordByWord("one two");
  server.intercept = (request) => {
    const begins = request.method === "POST" && !server.runs.has("elsewhere"); // earlier, the page would learn of it
    if (begins) server.begin({ run_id: "elsewhere", session_id: "s1", message: "Mine first" });
    return false;
  };
  await ask(page, "Mine");
  await page.waitForFunction(() => document.getElementById("alert").textContent.includes("session_busy"));
  assert.equal(await page.inputValue("#message"), "Mine");
  await page.waitForSelector("[data-run-id=elsewhere][data-status=running]");
});

test("page: asks for a key, keeps it in the tab and sends it", async () => {
  server.key = "right";
  const page = await open();
  await page.waitForSelector("#key-dialog[open]");
  await page.fill("#key", "wrong");
  assert.equal(await page.locator("#key-refused").isVisible(), false, "none was given yet");
  await page.click("[data-testid=key-submit]");
  await page.waitForSelector("#key-dialog[open] #key-refused:not([hidden])");
  assert.equal(await page.locator("#key-refused").innerText(), "The server refused that key.");
  assert.equal(await page.inputValue("#key"), "");
  await page.fill("#key", "right");
  await page.click("[data-testid=key-submit]");
  await page.waitForFunction(() => !document.getElementById("key-dialog").open);
  await ask(page, "Hi");
  await answered(page, "Hello.");
  await page.reload();
  await answered(page, "Hello.");
  assert.equal(await page.evaluate(() => [sessionStorage.getItem("gapless.key"), JSON.stringify(localStorage).includes("right")].join()), "right,false");
});

test("page: a late refusal of the old key does not ask again", async () => {
  server.key = "right";
  const late = [];
  let both;
  const caught = new Promise((resolve) => (both = resolve));
  server.intercept = (request, response) => {
    if (request.headers.authorization || !/\/(sessions|v1\/models)$/.test(request.url) || late.length === 2) return false;
    if (late.push(response) === 2) both();
    return true;
  };
  const page = await open();
  await caught;
  const refuse = (response) => response.writeHead(401, { "content-type": "application/json" }).end("{}");
  refuse(late[0]);
  await page.fill("#key", "right");
  const first = late[0].req.url;
  await Promise.all([page.waitForResponse((it) => it.ok() && it.url().endsWith(first)), page.click("[data-testid=key-submit]")]);
  const repeated = page.waitForResponse((it) => it.ok() && it.url().endsWith(late[1].req.url));
  refuse(late[1]);
  await repeated;
  await ask(page, "Hi");
  await answered(page, "Hello.");
});

atBoth("page: conversations can be begun, opened and deleted", async (size) => {
  const page = await open(size);
  await ask(page, "First");
  await turnIs(page, "finished");
  await beginAnew(page);
  assert.equal(await page.locator(".turn").count(), 0);
  await ask(page, "Second");
  await turnIs(page, "finished");
  await page.waitForFunction(() => document.querySelectorAll("[data-testid=session]").length === 2);
  await openList(page);
  await page.click("[data-session-id=s1] a");
  await page.waitForFunction(() => document.querySelector("[data-testid=user]")?.textContent === "First");
  await page.goBack();
  await page.waitForFunction(() => document.querySelector("[data-testid=user]")?.textContent === "Second");
  const remove = page.locator("[data-session-id=s2] .delete");
  await openList(page);
  await remove.click();
  assert.equal(server.sessions.size, 2);
  await remove.click();
  await page.waitForFunction(() => document.querySelectorAll("[data-testid=session]").length === 1);
  assert.deepEqual([...server.sessions.keys()], ["s1"]);
  assert.equal(await page.locator("#welcome").isVisible(), true);
});

atBoth("page: a conversation whose answer is coming, or whose question waits, is not deleted, and why is said in words", async (size) => {
  server.script = (message) => (message === "ask" ? asking({ message: "Which?" }) : wordByWord("one two"));
  const page = await open(size);
  server.intercept = (request, response) => request.method === "DELETE" && Boolean(response.writeHead(409, { "content-type": "application/json" }).end('{"error":{"code":"session_busy","message":"session s1 has an active run, 7f: wait for it, or cancel it"}}'));
  const says = { tell: "Not deleted. Its answer is still coming: stop it first.", ask: "Not deleted. Its question still waits: answer it, or stop it first." };
  for (const [message, said] of Object.entries(says)) {
    await beginAnew(page);
    await ask(page, message);
    await turnIs(page, message === "ask" ? "waiting" : "running");
    await openList(page);
    const first = page.locator("[data-testid=session]:has(.name)").filter({ hasText: message });
    await first.filter({ hasText: message === "ask" ? "Asks you" : "Answering" }).waitFor();
    for (const _ of ["asked", "sure"]) await first.locator("xpath=..").locator(".delete").click();
    await textIs(page, "#alert", said);
    if (size.isMobile) await page.keyboard.press("Escape");
  }
});

atBoth("page: a conversation is renamed in the list, by mouse and by keyboard, also while it is answered", async (size) => {
  server.script = () => wordByWord("one two");
  const page = await open(size);
  await ask(page, "First");
  const name = page.locator("[data-session-id=s1] .name");
  const field = page.locator("[data-testid=title-field]");
  await textIs(page, "[data-session-id=s1] .name", "First");
  await openList(page);
  if (size.isMobile) await page.tap("[data-session-id=s1] .rename");
  else await name.dblclick();
  assert.equal(await field.inputValue(), "First");
  await isInReach(page);
  await field.fill("Not this");
  assert.deepEqual(await faults(page), []);
  await field.press("Escape");
  await field.waitFor({ state: "detached" });
  assert.equal(await name.textContent(), "First");
  await page.locator("[data-session-id=s1] .rename").focus();
  await page.keyboard.press("Enter");
  server.begin({ run_id: "elsewhere", session_id: server.session().id, message: "From my phone" }); // comes before it
  await page.evaluate(() => dispatchEvent(new Event("online")));
  await field.fill("The harbour");
  await field.press("Enter");
  await page.waitForFunction(() => document.getElementById("title").textContent === "The harbour");
  await page.waitForFunction(() => document.querySelectorAll("[data-testid=session]").length === 2);
  assert.equal(await page.evaluate(() => document.activeElement.textContent.startsWith("The harbour")), true);
  assert.equal(server.sessions.get("s1").title, "The harbour");
  assert.deepEqual([...server.runs.values()].map((it) => it.record.status), ["running", "running"], "Escape stopped nothing");
  const refusal = { error: { code: "not_authorized", message: "No." } };
  let refuse;
  server.intercept = (request, response) => {
    if (request.method !== "PATCH") return false;
    refuse = () => response.writeHead(403).end(JSON.stringify(refusal));
    return true;
  };
  await page.locator("[data-session-id=s1] .rename").click();
  await field.fill("Lost");
  await beginAnew(page); // the field is left as the mouse goes down, and what is said is taken back as it goes up
  await serverWas(() => refuse);
  refuse();
  await page.waitForFunction(() => document.getElementById("alert").textContent.startsWith("Not renamed."));
  assert.equal(await name.textContent(), "The harbour");
});

test("page: an answer about the conversations that comes late takes no newer one's place", async () => {
  const page = await open();
  let late;
  server.intercept = (request, response, url) => {
    if (late || request.method !== "GET" || url.pathname !== "/sessions") return false;
    const known = JSON.stringify({ sessions: [...server.sessions.values()] });
    late = () => response.writeHead(200, { "content-type": "application/json" }).end(known);
    return true;
  };
  const lateAnswer = async () => {
    await Promise.all([page.waitForResponse((it) => it.url().endsWith("/sessions")), late()]);
    await page.evaluate(() => fetch("sessions").then((it) => it.json())); // what came before it has been read
    return page.locator("#sessions .name").allTextContents();
  };
  const look = async () => {
    late = undefined;
    server.resetFeed();
    await serverWas(() => late);
  };
  await look();
  await ask(page, "Hi");
  await turnIs(page, "finished");
  await textIs(page, "[data-session-id=s1] .name", "Hi");
  assert.deepEqual(await lateAnswer(), ["Hi"], "a new one stays");
  await look();
  await page.locator("[data-session-id=s1] .rename").focus();
  await page.keyboard.press("Enter");
  await page.fill("[data-testid=title-field]", "Good day");
  await page.keyboard.press("Enter");
  await textIs(page, "[data-session-id=s1] .name", "Good day");
  assert.deepEqual(await lateAnswer(), ["Good day"], "the given title stays");
  await look();
  await page.locator("[data-session-id=s1] .delete").focus();
  for (const _ of ["asked", "sure"]) await page.keyboard.press("Enter");
  await page.waitForSelector("[data-session-id=s1]", { state: "detached" });
  assert.deepEqual(await lateAnswer(), [], "what is gone stays away");
});

test("page: all conversations come by scrolling, are searched, and say what they do", async () => {
  for (let i = 0; i < 250; i += 1) server.session().title = i === 3 ? "About the harbour" : `Talk ${i}`;
  const page = await open();
  // Not innerText: it is empty for what `content-visibility` has not rendered yet.
  const titles = () => page.locator("[data-testid=session] .name").allTextContents();
  const listed = (count) => page.waitForFunction((it) => document.getElementById("sessions").dataset.count === String(it), count);
  await listed(100);
  assert.equal((await titles())[0], "Talk 249");
  await page.locator("#sessions").evaluate((it) => it.scrollTo(0, it.scrollHeight));
  await listed(200);
  await page.fill("#search", "HARB");
  await page.waitForFunction(() => document.querySelector("[data-testid=session] .name")?.textContent === "About the harbour");
  assert.deepEqual(await titles(), ["About the harbour"], "what is found may be on a page that was not read yet");
  await page.fill("#search", "nothing of this name");
  await page.waitForFunction(() => document.getElementById("search-status").textContent !== "");
  await page.locator("#search").press("Escape");
  await listed(100);
  await page.locator("#sessions").evaluate((it) => it.scrollTo(0, it.scrollHeight));
  await listed(200);
  await page.locator("#sessions").evaluate((it) => it.scrollTo(0, it.scrollHeight));
  await listed(250);
  server.script = (message) => (message === "ask" ? asking({ message: "Which?" }) : wordByWord("one two"));
  for (const message of ["ask", "tell"]) {
    await page.click("#new");
    await ask(page, message);
    await turnIs(page, message === "ask" ? "waiting" : "running");
  }
  await page.locator("#sessions").evaluate((it) => it.scrollTo(0, 0));
  await page.waitForFunction(() => [...document.querySelectorAll("#sessions li time")].slice(0, 2).map((it) => it.textContent).sort().join() === "Answering,Asks you");
  const second = page.locator("#sessions li").nth(2);
  await second.locator(".delete").focus();
  await page.keyboard.press("Enter");
  assert.match(await second.locator(".delete").getAttribute("aria-label"), /^Really delete Talk 249\?$/);
  await page.keyboard.press("Enter");
  await listed(251);
  assert.equal(await page.evaluate(() => document.activeElement.textContent.startsWith("Talk 248")), true);
});

atBoth("page: a conversation is saved as Markdown and as JSON, and the theme is chosen", async (size) => {
  server.script = () => [
    { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "look" },
    { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: '{"at":1}' },
    { type: "TOOL_CALL_RESULT", messageId: "t", toolCallId: "c", content: "```" },
    ...textScript("It is **here**."),
  ];
  const page = await open({ ...size, colorScheme: "light" });
  await ask(page, "Where?");
  await turnIs(page, "finished");
  await page.waitForFunction(() => document.getElementById("title").textContent === "Where?");
  const saved = async (name) => {
    await page.click("[data-testid=more]");
    const [file] = await Promise.all([page.waitForEvent("download"), page.click(`[data-testid=${name}]`)]);
    return [file.suggestedFilename(), await readFile(await file.path(), "utf8")];
  };
  assert.deepEqual(await saved("export-markdown"), ["Where.md", '# Where?\n\n## You\n\nWhere?\n\n## Answer\n\n**look**\n\n```\n{\n  "at": 1\n}\n```\n\n````\n```\n````\n\nIt is **here**.\n']);
  const [name, text] = await saved("export-json");
  assert.equal(name, "Where.json");
  assert.deepEqual([JSON.parse(text).session.id, JSON.parse(text).messages.length], ["s1", 4]);
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(await paper(), "rgb(251, 250, 248)");
  await page.click("[data-testid=more]");
  await isInReach(page);
  await page.selectOption("#theme", "dark");
  assert.equal(await paper(), "rgb(22, 23, 26)");
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#more").getAttribute("open"), null);
  await page.reload();
  assert.equal(await paper(), "rgb(22, 23, 26)");
  assert.equal(await page.inputValue("#theme"), "dark");
});

atBoth("page: a message that is typed while a question waits is the answer, or leaves it", async (size) => {
  const page = await open(size);
  const chosen = async (script, button) => {
    server.script = (message) => (message === "Ask" ? script : textScript(`To ${message}`));
    await beginAnew(page);
    await ask(page, "Ask");
    await turnIs(page, "waiting");
    await ask(page, "Oslo");
    await page.waitForFunction(() => document.getElementById("offer").contains(document.activeElement));
    await isInReach(page);
    const names = await page.locator("#offer button").allInnerTexts();
    const before = server.runs.size;
    await page.locator(`[data-testid=${button}]`).press("Enter");
    return [names.slice(0, -1), before];
  };
  const [names] = await chosen(asking({ message: "Which city?" }), "offer-answer");
  assert.deepEqual(names, ["Answer with this", "Leave the question and go on"]);
  await turnIs(page, "finished");
  assert.equal([...server.runs.values()].at(-1).answers[0].payload, "Oslo");
  await page.waitForFunction(() => document.getElementById("message").value === "");
  const [others, before] = await chosen(asking({ reason: "confirm", message: "Sure?" }), "offer-back");
  assert.deepEqual(others, ["Leave the question and go on"], "a city is no yes");
  assert.equal(await page.inputValue("#message"), "Oslo");
  await page.keyboard.press("Enter");
  const waiting = [...server.runs.values()].at(-1);
  server.intercept = (request) => {
    if (request.method === "POST" && request.url === "/runs") server.end(waiting, { type: "RUN_FINISHED", outcome: { type: "success" } });
    return false;
  };
  await page.click("[data-testid=offer-leave]");
  await answered(page, "To Oslo");
  assert.equal(server.runs.size, before + 1);
  await chosen(asking({ message: "Which?", reason: "tool_call", responseSchema: APPROVAL }, { name: "mail" }), "offer-answer");
  await turnIs(page, "finished");
  assert.deepEqual([...server.runs.values()].at(-1).answers[0].payload, { approved: false, reason: "Oslo" });
});

test("page: that the server is away is taken back when it is there again", async () => {
  const page = await open();
  let away = true;
  server.intercept = (request, response) => away && Boolean(response.destroy());
  await page.evaluate(() => (Math.random = () => 0)); // it tries again at once
  await ask(page, "Hi");
  await page.waitForFunction(() => document.getElementById("alert").textContent === "Not sent. The server cannot be reached.");
  away = false;
  await page.evaluate(() => dispatchEvent(new Event("focus")));
  await page.waitForFunction(() => document.getElementById("alert").hidden);
  await page.locator("#message").press("Enter");
  await answered(page, "Hello.");
});

atBoth("page: files are picked, dropped and pasted into a message, up to a size", async (size) => {
  const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  const page = await open(size);
  const attached = (count) => page.waitForFunction((it) => document.querySelectorAll("[data-testid=attached]").length === it, count);
  await page.setInputFiles("#files", [{ name: "a.png", mimeType: "image/png", buffer: Buffer.from(png, "base64") }]);
  await attached(1);
  const drop = (type, name, bytes) => page.evaluate(([type, name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes).fill(97)], name, { type: "text/plain" }));
    const [node, event] = type === "drop" ? [document.body, new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })] : [document.getElementById("message"), new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })];
    node.dispatchEvent(event);
  }, [type, name, bytes]);
  await drop("drop", "b.txt", 3);
  await attached(2);
  await drop("paste", "c.txt", 2);
  await attached(3);
  await drop("paste", "long.txt", 3_000_000);
  await page.waitForFunction(() => document.getElementById("alert").textContent === "A message takes 3 MB of files; with long.txt it would be 3.1 MB.");
  await isInReach(page);
  await page.click('[aria-label="Remove c.txt"]');
  await attached(2);
  let refused = true;
  server.intercept = (request, response) => refused && request.method === "POST" && request.url === "/runs" && Boolean(response.writeHead(413, { "content-type": "application/json" }).end('{"error":{"code":"input_too_large","message":"Too much."}}'));
  await ask(page, "What is this?");
  await page.waitForFunction(() => document.getElementById("alert").textContent === "Not sent. Too much. (input_too_large)");
  await attached(2);
  refused = false;
  await page.press("#message", "Enter");
  await turnIs(page, "finished");
  await attached(0);
  const part = (type, value, mimeType, filename) => ({ type, source: { type: "data", value, mimeType }, metadata: { filename } });
  const content = [{ type: "text", text: "What is this?" }, part("image", png, "image/png", "a.png"), part("document", "YWFh", "text/plain", "b.txt")];
  assert.deepEqual([...server.runs.values()][0].content, content);
  await page.reload();
  await turnIs(page, "finished");
  await page.waitForFunction(() => document.querySelector(".user img").naturalWidth === 1);
  assert.match(await page.locator(".user").innerText(), /b\.txt\s*What is this\?/);
  await page.click("[data-testid=ask-again]");
  await page.waitForSelector("[data-testid=versions]:not([hidden])");
  await serverWas(() => server.runs.size === 2);
  assert.deepEqual([...server.runs.values()][1].content, content);
});

test("page: an address that names nothing begins anew", async () => {
  const page = await open({ url: `${server.url}#gone` });
  await page.waitForFunction(() => document.getElementById("alert").textContent.includes("no longer exists"));
  await ask(page, "Hi");
  await answered(page, "Hello.");
});

test("page: works below a prefix", async () => {
  server.base = "/my/app/";
  const page = await open();
  await ask(page, "Hi");
  await answered(page, "Hello.");
  assert.ok(server.log.includes("GET /my/app/static/chat.js"));
  assert.ok(server.log.every((it) => it.includes(" /my/app/")), server.log.join("\n"));
});

test("page: follows the end of the answer only from the end", async () => {
  const lines = Array.from({ length: 120 }, (_, i) => `line ${i}`).join("\n\n");
  server.script = () => [...textScript(lines).slice(0, -2), { pause: "more" }, ...words(" and more\n\n".repeat(40)).map((delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId: "m1", delta })), ...textScript("").slice(-2)];
  const page = await open({ viewport: { width: 900, height: 600 } });
  await ask(page, "Long");
  const gap = () => page.evaluate(() => { const n = document.getElementById("scroll"); return n.scrollHeight - n.scrollTop - n.clientHeight; });
  await page.waitForFunction(() => document.querySelector(".answer").textContent.includes("line 119"));
  assert.ok((await gap()) < 2);
  await page.evaluate(() => (document.getElementById("scroll").scrollTop = 100));
  await page.waitForSelector("#to-end:not([hidden])");
  server.go("more");
  await turnIs(page, "finished");
  assert.equal(await page.evaluate(() => document.getElementById("scroll").scrollTop), 100);
  await page.click("#to-end");
  assert.ok((await gap()) < 2);
});

test("page: fits a phone, and its list opens and closes", async () => {
  server.script = () => textScript(`| ${"wide column | ".repeat(9)}\n|${"--|".repeat(9)}\n\n\`\`\`\n${"x".repeat(300)}\n\`\`\`\n${"y".repeat(300)}`);
  const page = await open({ viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true });
  await ask(page, "z".repeat(200));
  await turnIs(page, "finished");
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  assert.equal(await page.locator("#messages").evaluate((it) => it.scrollWidth <= it.clientWidth), true);
  assert.equal(await page.locator("#sidebar").isVisible(), false);
  await page.click("#menu");
  assert.equal(await page.locator("#sidebar").isVisible(), true);
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => getComputedStyle(document.getElementById("sidebar")).visibility === "hidden");
});

test("page: at 320 pixels Escape gives the focus back to the list's button, and the field's text has room beside all buttons", async () => {
  server.script = () => asking({ message: "Which?" });
  for (const isMobile of [false, true]) {
    const page = await open({ viewport: { width: 320, height: 640 }, isMobile, hasTouch: isMobile });
    await page.locator("#menu").press("Enter");
    await page.waitForFunction(() => document.activeElement.id === "new");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => getComputedStyle(document.getElementById("sidebar")).visibility === "hidden");
    assert.equal(await page.evaluate(() => document.activeElement.id), "menu");
    await ask(page, "Ask");
    await turnIs(page, "waiting");
    assert.deepEqual([await page.locator("#send").isVisible(), await page.locator("#stop").isVisible()], [true, true]);
    const [room, wanted, lines] = await page.locator("#message").evaluate((field) => {
      const drawing = document.createElement("canvas").getContext("2d");
      const { font, lineHeight, paddingTop, paddingBottom } = getComputedStyle(field);
      drawing.font = font;
      const height = field.clientHeight - Number.parseFloat(paddingTop) - Number.parseFloat(paddingBottom);
      return [field.clientWidth, drawing.measureText(field.placeholder).width, Math.round(height / Number.parseFloat(lineHeight))];
    });
    assert.ok(room >= wanted, `${wanted} pixels of text in ${room}`);
    assert.equal(lines, 1);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 320);
    await page.context().close();
  }
});

test("page: nothing hinders who hears it or sees little, light and dark, at a desk and on a phone", async () => {
  const approval = asking({ reason: "tool_call", message: "Send it?", responseSchema: APPROVAL, metadata: { kind: "approval", arguments: { to: "all" } } }, { name: "mail" });
  const form = asking({ message: "Who?", responseSchema: { type: "object", required: ["name"], properties: { name: { type: "string", description: "In full" }, size: { enum: ["S", "M"] }, at: { type: "array", items: { type: "string" } } } } });
  const interrupts = [...approval, ...form].filter((it) => it.outcome).flatMap((it) => it.outcome.interrupts).map((it, index) => ({ ...it, id: `i${index}` }));
  server.script = (message) => (message === "ask" ? [...approval.slice(0, -1), { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts } }] : [...textScript("# Title\n\nA [link](https://example.org) and\n\n```js\nlet x;\n```\n\n> said").slice(0, -1), { type: "RUN_ERROR", code: "away", message: "Gone." }]);
  const sizes = [{ colorScheme: "light" }, { colorScheme: "dark", viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true }];
  for (const options of sizes) {
    const page = await open({ ...options, reducedMotion: "reduce" });
    await ask(page, "tell");
    await turnIs(page, "failed");
    await ask(page, "ask");
    await turnIs(page, "waiting");
    await page.locator("[data-kind=form] button.primary").click();
    await page.click("[data-testid=edit-arguments]");
    await page.setInputFiles("#files", [{ name: "a.txt", mimeType: "text/plain", buffer: Buffer.from("a") }]);
    await page.waitForSelector("[data-testid=attached]");
    await ask(page, "Hm");
    await page.waitForSelector("#offer:not([hidden])");
    await page.click("[data-testid=more]");
    await page.evaluate(() => {
      document.getElementById("talking").hidden = false; // a call needs more of a server than this one
      document.getElementById("talking-text").textContent = "Speak, or type";
    });
    if (options.isMobile) assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
    assert.deepEqual(await faults(page), []);
    await page.context().close();
  }
});

test("page: every control has a name, and the growing text is not read out word by word", async () => {
  const page = await open();
  await ask(page, "Hi");
  await turnIs(page, "finished");
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll("button, a, textarea, input")].filter((it) => !(it.getAttribute("aria-label") || it.textContent.trim())).map((it) => it.outerHTML),
  );
  assert.deepEqual(nameless, []);
  assert.equal(await page.locator("#messages").evaluate((it) => it.closest("[aria-live], [role=log], [role=status]")), null);
  await page.waitForFunction(() => document.getElementById("live").textContent === "Hello."); // when the stream has ended
});
