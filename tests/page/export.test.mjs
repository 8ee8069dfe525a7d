import assert from "node:assert/strict";
import { test } from "node:test";
import { markdownOf } from "../../src/gapless/server/page/export.js";

test("export: a text stands in a fence that it does not close, however many it has", () => {
  const exported = (result) => {
    const tool = { kind: "tool", name: "look", chunks: ["{}"], result, denied: false };
    return markdownOf("T", [{ message: "go", agent: "a", view: { status: "finished", items: [tool] } }]);
  };
  assert.match(exported("a ```` b"), /\n`````\na ```` b\n`````\n$/);
  assert.ok(exported("` ".repeat(300_000)).length > 600_000);
});

test("export: an answer that is not there says why", () => {
  const exported = (view) => markdownOf("T", [{ message: "go", agent: "", view: { items: [], interrupts: [], error: null, ...view } }]).split("## Answer\n\n")[1];
  const interrupts = [{ id: "a", reason: "input_required", message: "Which city?" }, { id: "b", reason: "tool_call" }];
  const text = { kind: "text", chunks: ["So far."] };
  assert.equal(exported({ status: "waiting", interrupts, items: [text] }), "So far.\n\n*A question waits for an answer:* Which city?\n\n*A question waits for an answer:* tool call\n");
  assert.equal(exported({ status: "running", items: [text] }), "So far.\n\n*The answer is still coming.*\n");
  assert.equal(exported({ status: "finished" }), "*The answer is empty.*\n");
  assert.equal(exported({ status: "finished", items: [text] }), "So far.\n");
});
