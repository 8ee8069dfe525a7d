/**
 * Measures the chat page in a real Chromium: one JSON object on stdin, one on stdout.
 *
 * For each length an answer is asked for that is so long already and then grows; while it does, the frames that the
 * page gets to draw, its long tasks, and Chromium's own account of the main thread are taken.
 */
import { text } from "node:stream/consumers";
import { launch } from "./browser.mjs";

const { url, levels, settle_ms, window_ms } = JSON.parse(await text(process.stdin));
const TIMEOUT_MS = 30_000;
const MESSAGES = '[data-testid="messages"]';

/** Runs in the page: collects the frames' intervals and the long tasks until it is asked for them. */
function collect() {
  const found = { frames: [], longTasks: [] };
  const observer = new PerformanceObserver((list) => found.longTasks.push(...list.getEntries().map((it) => it.duration)));
  observer.observe({ type: "longtask" });
  let last = performance.now();
  let request = requestAnimationFrame(function next(now) {
    found.frames.push(now - last);
    last = now;
    request = requestAnimationFrame(next);
  });
  window.collected = () => {
    cancelAnimationFrame(request);
    observer.disconnect();
    return found;
  };
}

async function measure(browser, { chars, message }) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  const session = await context.newCDPSession(page);
  const metrics = async () => {
    const { metrics: list } = await session.send("Performance.getMetrics");
    return Object.fromEntries(list.map(({ name, value }) => [name, value]));
  };
  const length = () => page.evaluate((selector) => document.querySelector(selector).textContent.length, MESSAGES);
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  // CPU seconds of the main thread, not the clock's: another process's turn is not the page's work.
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  await page.goto(url);
  const asked = await page.locator('[data-testid="message"]');
  await asked.fill(message);
  await asked.press("Enter");
  // What is there already comes in a few frames; the markup that Markdown leaves out makes the text a little shorter.
  for (const deadline = Date.now() + TIMEOUT_MS; (await length()) < chars * 0.85; await pause(50)) {
    if (Date.now() > deadline) throw new Error(`the answer has ${await length()} of ${chars} characters`);
  }
  await pause(settle_ms);
  const shown = await length();
  await page.evaluate(collect);
  const before = await metrics();
  await pause(window_ms);
  const after = await metrics();
  const { frames, longTasks } = await page.evaluate(() => window.collected());
  const grown = (await length()) - shown;
  await context.close();
  const used = (name) => after[name] - before[name];
  return {
    chars,
    shown,
    grown,
    errors,
    frames_ms: frames.slice(1), // the first began before the window
    long_tasks_ms: longTasks,
    seconds: used("Timestamp"),
    task_s: used("TaskDuration"),
    script_s: used("ScriptDuration"),
    layout_s: used("LayoutDuration") + used("RecalcStyleDuration"),
  };
}

const browser = await launch();
try {
  const results = [];
  for (const level of levels) results.push(await measure(browser, level));
  console.log(JSON.stringify({ browser: browser.version(), results }));
} finally {
  await browser.close();
}
