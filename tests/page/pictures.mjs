/** The pictures of the page that the documents show, of a scripted server:   node pictures.mjs FOLDER */

import path from "node:path";
import { launch } from "./browser.mjs";
import { MockServer, words } from "./mock.mjs";

const NOW = new Date("2026-03-04T10:30:00").getTime();
const MINUTE = 60_000;
const QUESTION = "Why do streamed answers get lost, and what does the journal change?";
const ANSWER = `Two things go wrong when an answer is only a connection:

1. **The connection ends, and the answer with it.** A reload, a train tunnel or a deploy is enough.
2. **Nobody knows how far it was.** So it starts over, and is paid for twice.

Gapless keeps a *journal* and lets every client say where it was:

\`\`\`http
GET /runs/1a1f758ff33f/events
Last-Event-ID: 41
\`\`\`

\`\`\`python
async for event in run.events(after=41):  # from any server
    print(event)
\`\`\`

The next event is number 42, whichever server answers, and the rest follows as it is`;
const EARLIER = ["Plan for the harbour festival", "Figures of March", "The manual in Danish", "Letter to the suppliers", "Names for the new boat"];
const DESK = { width: 1180, height: 860 };
const PHONE = { width: 390, height: 780 };

const said = (text, id) => [
  { type: "TEXT_MESSAGE_START", messageId: id, role: "assistant" },
  ...words(text).map((delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId: id, delta })),
];
const thought = (text) => [
  { type: "REASONING_MESSAGE_START", messageId: "r", role: "reasoning" },
  { type: "REASONING_MESSAGE_CONTENT", messageId: "r", delta: text },
  { type: "REASONING_MESSAGE_END", messageId: "r" },
];
const called = (name, args, result) => [
  { type: "TOOL_CALL_START", toolCallId: name, toolCallName: name },
  { type: "TOOL_CALL_ARGS", toolCallId: name, delta: JSON.stringify(args) },
  { type: "TOOL_CALL_END", toolCallId: name },
  ...(result ? [{ type: "TOOL_CALL_RESULT", messageId: `${name}-result`, toolCallId: name, content: result }] : []),
];

const growing = [...thought("It asks for two things."), ...called("read_journal", { run: "1a1f758ff33f", after: 41 }, "42 events"), ...said(ANSWER, "m"), { pause: "never" }];
const refund = { order: "4711", amount: 59, currency: "EUR" };
const APPROVAL = { type: "object", properties: { approved: { type: "boolean" }, editedArgs: { type: "object" }, reason: { type: "string" } }, required: ["approved"] };
const asking = [
  ...said("The order came back on Monday, so the money can go back too.", "m"),
  { type: "TEXT_MESSAGE_END", messageId: "m" },
  ...called("refund", refund),
  {
    type: "RUN_FINISHED",
    outcome: {
      type: "interrupt",
      interrupts: [{ id: "i", reason: "tool_call", message: "Refund 59 EUR for order 4711?", toolCallId: "refund", responseSchema: APPROVAL, metadata: { kind: "approval", arguments: refund } }],
    },
  },
];

/** Asks `message` on a server with some conversations, and takes the picture when `ready` is on the page. */
async function take(browser, file, message, script, ready, options) {
  const server = await new MockServer().start();
  const before = EARLIER.map((title, index) => Object.assign(server.session(), { title, updated_at: NOW - (index * 7 + 1) * 9 * 60 * MINUTE }));
  server.script = () => (message === QUESTION ? asking : growing);
  server.begin({ run_id: "other", session_id: before[0].id, message: "x" });
  Object.assign(before[0], { title: message === QUESTION ? "Refund for order 4711" : QUESTION, updated_at: NOW - 12 * MINUTE });
  server.script = () => script;
  const context = await browser.newContext({ locale: "en-GB", deviceScaleFactor: 1, ...options });
  const page = await context.newPage();
  await page.clock.setFixedTime(NOW);
  await page.goto(server.url);
  await page.fill("#message", message);
  await page.press("#message", "Enter");
  await page.waitForSelector(ready);
  Object.assign([...server.sessions.values()].at(-1), { title: message, updated_at: NOW });
  await page.evaluate(() => dispatchEvent(new Event("online"))); // the list and the title are read again
  await page.waitForSelector("#sessions li:first-child a[aria-current]", { state: "attached" });
  await page.waitForFunction((title) => document.getElementById("title").textContent === title, message);
  await page.evaluate(() => document.fonts.ready);
  await page.screenshot({ path: file, animations: "disabled" });
  await context.close();
  await server.stop();
}

const folder = process.argv[2];
const browser = await launch();
const file = (name) => path.join(folder, name);

await take(browser, file("page.png"), QUESTION, growing, ".turn:last-child .answer figure ~ p", { colorScheme: "light", viewport: DESK });
await take(browser, file("page-dark.png"), "Please refund order 4711.", asking, ".turn[data-status=waiting]", { colorScheme: "dark", viewport: DESK });
await take(browser, file("page-phone.png"), "Please refund order 4711.", asking, ".turn[data-status=waiting]", { colorScheme: "light", viewport: PHONE, isMobile: true, hasTouch: true });
await browser.close();
