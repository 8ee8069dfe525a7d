import assert from "node:assert/strict";
import { test } from "node:test";
import { lineOf, parentsOf } from "../../src/gapless/server/page/branches.js";

const line = (turns, ...chosen) => lineOf(parentsOf(turns), new Set(chosen)).map(({ runId, at, versions }) => `${runId} ${at + 1}/${versions.length}`).join(", ");
const turn = (runId, after, messageId = `${runId}-user`) => ({ runId, after, messageId });

test("branches: turns follow one another, or take the place of others, as the server has it", () => {
  const cases = [
    [[], ""],
    [[turn("a"), turn("b")], "a 1/1, b 1/1"],
    [[turn("a"), turn("b"), turn("c", "a")], "a 1/1, c 2/2"],
    [[turn("a"), turn("b"), turn("c", ""), turn("d")], "c 2/2, d 1/1"],
    [[turn("a"), turn("b"), turn("c", ""), turn("d", "b")], "a 1/2, b 1/1, d 1/1"],
    [[turn("a"), turn("b", undefined, "q"), turn("c", undefined, "q")], "a 1/1, c 2/2"],
    [[turn("a", undefined, "q"), turn("b"), turn("c", undefined, "q")], "c 2/2"],
    [[turn("a"), turn("b", "unknown")], "a 1/1, b 1/1"],
  ];
  for (const [turns, wanted] of cases) assert.equal(line(turns), wanted);
});

test("branches: what a reader has chosen is shown, with the newest behind it", () => {
  const turns = [turn("a"), turn("b"), turn("c", "a"), turn("d", "")];
  assert.equal(line(turns, "a"), "a 1/2, c 2/2");
  assert.equal(line(turns, "a", "b"), "a 1/2, b 1/2");
});
