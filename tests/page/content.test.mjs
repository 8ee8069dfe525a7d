import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, faults, open, server, SIZES, turnIs } from "./harness.mjs";
import { textScript } from "./mock.mjs";

const CODE = "```python\n@cached\ndef area(radius: float) -> float:  # of a circle\n    return 3.14 * radius ** 2 if radius > 0 else None\n```";
const FORMULAS = "So $a_1$ and again $a_1$, then\n\n$$\n\\frac{a}{b}\n$$\n\nand \\(\\broken\\).";
const TASKS = "- [x] done\n- [ ] not yet";

for (const size of SIZES) {
  const where = size.isMobile ? "on a phone" : "at a desk";

  test(`page: code has colours, formulas are set, tasks have boxes, ${where}, light and dark`, async () => {
    const asked = [];
    server.intercept = (request) => {
      if (request.url.endsWith("/formulas")) asked.push(request.method);
      return false;
    };
    const set = server.formula;
    server.formula = (formula) => (formula.tex === "\\broken" ? null : set(formula));
    server.script = () => textScript([CODE, FORMULAS, TASKS].join("\n\n"));
    for (const colorScheme of ["light", "dark"]) {
      asked.length = 0;
      const page = await open({ ...size, colorScheme });
      await ask(page, "Show");
      await turnIs(page, "finished");
      await page.waitForFunction(() => document.querySelectorAll(".formula math").length === 3);
      assert.deepEqual(await page.locator(".code .keyword").allInnerTexts(), ["def", "return", "if", "else"]);
      const colour = (kind) => page.locator(`.code .${kind}`).first().evaluate((it) => getComputedStyle(it).color);
      assert.equal(new Set(await Promise.all(["keyword", "comment", "number", "function", "type"].map(colour))).size, 5);
      const formulas = await page.locator(".formula").evaluateAll((nodes) => nodes.map((it) => [it.textContent, it.querySelector("math")?.namespaceURI ?? null, it.querySelector("math")?.getAttribute("display") ?? null]));
      const mathml = "http://www.w3.org/1998/Math/MathML";
      assert.deepEqual(formulas, [["a_1", mathml, null], ["a_1", mathml, null], ["\\frac{a}{b}", mathml, "block"], ["\\(\\broken\\)", null, null]]);
      assert.equal(asked.length, 1); // all of them at once
      const boxes = await page.locator(".md li").evaluateAll((nodes) => nodes.map((it) => getComputedStyle(it, "::before").content));
      assert.deepEqual(boxes, ['"✓" / "Done:"', '"" / "To do:"']);
      if (size.isMobile) assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), size.viewport.width);
      assert.deepEqual(await faults(page), []);
      await page.reload();
      await page.waitForFunction(() => document.querySelectorAll(".formula math").length === 3);
      await page.context().close();
    }
  });

  test(`page: calls that follow each other are one list, ${where}`, async () => {
    const call = (id) => [
      { type: "TOOL_CALL_START", toolCallId: id, toolCallName: "read" },
      { type: "TOOL_CALL_ARGS", toolCallId: id, delta: `{"file": "${id}"}` },
      { type: "TOOL_CALL_END", toolCallId: id },
      { type: "TOOL_CALL_RESULT", messageId: `${id}-r`, toolCallId: id, content: id },
    ];
    const word = { type: "TEXT_MESSAGE_CHUNK", messageId: "w", role: "assistant", delta: "Once more:" };
    server.script = () => [...["a", "b", "c"].flatMap(call), word, ...call("d"), ...textScript("Read.")];
    const page = await open(size);
    await ask(page, "Read");
    await turnIs(page, "finished");
    const boxes = await page.locator("[data-testid=tool]").evaluateAll((nodes) =>
      nodes.map((it) => {
        const { top, bottom } = it.getBoundingClientRect();
        const { borderTopLeftRadius, borderBottomRightRadius } = getComputedStyle(it);
        return { top, bottom, round: [borderTopLeftRadius, borderBottomRightRadius].map((radius) => radius !== "0px") };
      }),
    );
    assert.deepEqual(boxes.map(({ round }) => round), [[true, false], [false, false], [false, true], [true, true]]);
    for (const index of [1, 2]) assert.ok(Math.abs(boxes[index - 1].bottom - 1 - boxes[index].top) < 0.6, "one line between two");
    assert.ok(boxes[3].top > boxes[2].bottom + 20, "another after a text");
    if (size.isMobile) for (const { top, bottom } of boxes) assert.ok(bottom - top >= 40, "for a finger");
    await page.locator("[data-testid=tool] summary").nth(1).click();
    assert.equal(await page.locator("[data-testid=tool-result]:visible").innerText(), "b");
    assert.deepEqual(await faults(page), []);
    await page.context().close();
  });

  test(`page: a long result of a tool is folded, and shown whole when it is wanted, ${where}`, async () => {
    const long = Array.from({ length: 400 }, (_, line) => `line ${line} of many, so that nobody wants to see all of them`).join("\n");
    server.script = () => [
      { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "read" },
      { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: '{"file": "a"}' },
      { type: "TOOL_CALL_END", toolCallId: "c" },
      { type: "TOOL_CALL_RESULT", messageId: "r", toolCallId: "c", content: long },
      ...textScript("Read."),
    ];
    const page = await open(size);
    await ask(page, "Read");
    await turnIs(page, "finished");
    await page.locator("[data-testid=tool] summary").click();
    const result = page.locator("[data-testid=tool-result]");
    assert.equal((await result.innerText()).split("\n").length, 16);
    const more = page.locator("[data-testid=show-all]:visible");
    assert.match(await more.innerText(), /^Show all, [\d,]+ characters$/);
    assert.deepEqual(await faults(page), []);
    await more.focus();
    await page.keyboard.press("Enter");
    assert.equal(await result.innerText(), long);
    assert.equal(await more.innerText(), "Show less");
    await page.keyboard.press("Enter");
    assert.equal((await result.innerText()).split("\n").length, 16);
    assert.equal(await page.locator("[data-testid=tool] [data-testid=tool-arguments] ~ [data-testid=show-all]").first().isVisible(), false);
  });
}

test("page: an answer of a hundred thousand characters comes to its end in slices, and the page stays there", async () => {
  server.script = () => textScript(`${"- so **many** words\n".repeat(5000)}\nThe end`, "m");
  const page = await open();
  await ask(page, "Show");
  await page.waitForFunction(() => document.querySelector(".answer")?.lastElementChild?.lastElementChild?.textContent === "The end");
  await turnIs(page, "finished");
  await page.waitForFunction(() => {
    const { scrollHeight, scrollTop, clientHeight } = document.getElementById("scroll");
    return scrollHeight - scrollTop - clientHeight < 2;
  });
});
