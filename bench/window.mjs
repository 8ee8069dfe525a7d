/**
 * Measures the window in a real Chromium: one JSON object on stdin, one array on stdout.
 *
 * For each thing that is done: how long it takes, in ms, from the click, or the last key, to the first frame in which its
 * answer stands.
 */
import { text } from "node:stream/consumers";
import { launch } from "./browser.mjs";

const { url, message, times } = JSON.parse(await text(process.stdin));

/** Runs in the page: does it, and looks in each frame whether its answer is there. */
function timed({ name, value, click, shows }) {
  const rows = () => [...document.querySelectorAll('[data-testid="row"]')];
  const end = () => document.getElementById("runs-end").textContent;
  const areAll = ([said, count]) => rows().length > 0 && rows().length === (count ?? rows().length) && rows().every((row) => row.textContent.includes(said));
  const isThere = {
    begun: (wanted) => end().startsWith("Looked at") || areAll(wanted),
    rows: areAll,
    all: () => rows().length === 50 && rows()[0].textContent.includes("anonymous"),
    more: (count) => rows().length >= count,
    run: () => document.querySelectorAll('[data-testid="entry"]').length > 2,
  };
  const [kind, wanted] = shows;
  const [began, deadline] = [performance.now(), performance.now() + 20_000];
  if (click !== undefined) document.querySelector(click).click();
  else {
    const field = document.querySelector(`[name="${name}"]`);
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  return new Promise((done, failed) => {
    requestAnimationFrame(function look() {
      const now = performance.now();
      if (isThere[kind](wanted)) done(now - began);
      else if (now > deadline) failed(new Error(`not shown after 20 s: ${name ?? click} ${value ?? ""}`));
      else requestAnimationFrame(look);
    });
  });
}

/** The newest run of all is one that this script has started. */
const none = (name) => ({ name, value: "", shows: ["all"] });
const DONE = [
  ["a status", { name: "status", value: "failed", shows: ["rows", ["failed"]] }, none("status")],
  ["a user", { name: "user_id", value: "u7", shows: ["rows", ["· u7"]] }, none("user_id")],
  ["the text of a rare error", { name: "error", value: "paper", shows: ["rows", ["Out of paper", 1]] }, none("error")],
  ["a rare agent: how far it has looked", { name: "agent", value: "rare", shows: ["begun", ["rare"]] }, none("agent")],
  ["a rare agent: found", { name: "agent", value: "rare", shows: ["rows", ["rare", 7]] }, none("agent")],
  ["older runs", { click: '[data-testid="older"]', shows: ["more", 100] }, none("status")],
  ["a run", { click: '[data-testid="row"]', shows: ["run"] }, { click: '[data-testid="back"]', shows: ["all"] }],
];

const browser = await launch();
try {
  await fetch(url, { method: "POST", headers: { "content-type": "application/json", accept: "text/event-stream" }, body: JSON.stringify({ message }) }).then((answer) => answer.text());
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 800 } })).newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  await page.locator('[data-testid="connection"][data-state="open"]').waitFor({ state: "attached" });
  await page.locator('[data-testid="row"]').nth(49).waitFor({ state: "attached" });
  const found = [];
  for (const [what, does, undoes] of DONE) {
    const ms = [];
    for (let time = 0; time < times; time += 1) {
      ms.push(await page.evaluate(timed, does));
      await page.evaluate(timed, undoes);
    }
    found.push({ what, ms, errors });
  }
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
