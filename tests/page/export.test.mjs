import assert from "node:assert/strict";
import { test } from "node:test";
import { markdownOf } from "../../src/gapless/server/page/export.js";

test("export: a text stands in a fence that it does not close, however many it has", () => {
  const exported = (result) => {
    const tool = { kind: "tool", name: "look", chunks: ["{}"], result, denied: false };
    return markdownOf("T", [{ message: "go", agent: "a", view: { items: [tool] } }]);
  };
  assert.match(exported("a ```` b"), /\n`````\na ```` b\n`````\n$/);
  assert.ok(exported("` ".repeat(300_000)).length > 600_000);
});
