import assert from "node:assert/strict";
import test from "node:test";
import { applyEvent, newView, textOf, viewOfMessages } from "../../src/gapless/server/page/fold.js";

const text = (messageId, delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId, delta });

function fold(...events) {
  const view = newView();
  for (const event of events) applyEvent(view, event);
  return view;
}

/** What a view shows, without how its text was split. */
function shown(view) {
  return {
    status: view.status,
    error: view.error,
    interrupts: view.interrupts,
    items: view.items.map(({ chunks, ...item }) => (chunks ? { ...item, text: chunks.join("") } : item)),
  };
}

const RUN = [
  { type: "RUN_STARTED", threadId: "t", runId: "r" },
  { type: "STEP_STARTED", stepName: "plan" },
  { type: "REASONING_START", messageId: "q" },
  { type: "REASONING_MESSAGE_START", messageId: "q", role: "reasoning" },
  { type: "REASONING_MESSAGE_CONTENT", messageId: "q", delta: "hm" },
  { type: "REASONING_MESSAGE_END", messageId: "q" },
  { type: "STEP_FINISHED", stepName: "plan" },
  { type: "TEXT_MESSAGE_START", messageId: "m" },
  text("m", "a"),
  text("m", "b"),
  text("m", "c"),
  { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "add", parentMessageId: "m" },
  { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: '{"x"' },
  { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: ":1}" },
  { type: "TOOL_CALL_END", toolCallId: "c" },
  { type: "TEXT_MESSAGE_END", messageId: "m" },
  { type: "TOOL_CALL_RESULT", messageId: "tm", toolCallId: "c", content: "2" },
  { type: "STATE_SNAPSHOT", snapshot: { a: 1 } },
  { type: "CUSTOM", name: "gapless.notice", value: { code: "cut", message: "Cut." } },
  { type: "CUSTOM", name: "other", value: 1 },
];
const DONE = { type: "RUN_FINISHED", threadId: "t", runId: "r", outcome: { type: "success" } };

test("fold: items in the order in which they began", () => {
  const view = fold(...RUN, DONE);
  assert.equal(view.status, "finished");
  assert.deepEqual(view.items.map((item) => item.kind), ["step", "reasoning", "text", "tool", "notice"]);
  assert.ok(view.items.every((item) => item.open !== true && !item.interrupted));
  const tool = view.items[3];
  assert.deepEqual([tool.name, textOf(tool), tool.result], ["add", '{"x":1}', "2"]);
  assert.equal(textOf(view.items[2]), "abc");
});

test("fold: what a lost worker said is taken back by name, and nothing else", () => {
  const view = fold(
    ...RUN,
    { type: "TEXT_MESSAGE_START", messageId: "n" },
    text("n", "kept \u{1F600}|void"),
    { type: "TOOL_CALL_START", toolCallId: "d", toolCallName: "sub" },
    text("o", "void"),
    { type: "CUSTOM", name: "gapless.void", value: { messageIds: ["o", "tm"], toolCallIds: ["d"], cut: { n: 6 } } },
  );
  assert.deepEqual(view.items.map((item) => item.key), ["step:1", "reasoning:q", "text:m", "tool:c", "notice:1", "text:n"]);
  assert.deepEqual([...view.takenBack].sort(), ["text:n", "text:o", "tool:c", "tool:d"]);
  const [, , m, tool, , n] = view.items;
  assert.deepEqual([textOf(m), tool.result, tool.open, textOf(n), n.open], ["abc", null, true, "kept \u{1F600}", true]);
  applyEvent(view, text("n", "!"));
  applyEvent(view, { type: "TOOL_CALL_RESULT", messageId: "tm2", toolCallId: "c", content: "3" });
  assert.deepEqual([textOf(view.byKey.get("text:n")), view.byKey.get("tool:c").result], ["kept \u{1F600}!", "3"]);
  applyEvent(view, { type: "CUSTOM", name: "gapless.restarted", value: { restarts: 1 } });
  assert.deepEqual(view.items.map((item) => item.key), ["notice:1"]);
});

test("fold: merged deltas give the same view", () => {
  const merged = RUN.filter((event) => event.delta !== "b" && event.delta !== "c").map((event) =>
    event.delta === "a" ? text("m", "abc") : event,
  );
  assert.deepEqual(shown(fold(...merged, DONE)), shown(fold(...RUN, DONE)));
});

test("fold: a message that is opened again (a late join) goes on", () => {
  const view = fold({ type: "TEXT_MESSAGE_START", messageId: "m" }, text("m", "a"), { type: "TEXT_MESSAGE_START", messageId: "m" }, text("m", "b"));
  assert.equal(view.items.length, 1);
  assert.equal(textOf(view.items[0]), "ab");
});

test("fold: chunk events without an id go on with the last one", () => {
  const view = fold(
    { type: "TEXT_MESSAGE_CHUNK", messageId: "m", delta: "a" },
    { type: "TEXT_MESSAGE_CHUNK", delta: "b" },
    { type: "TOOL_CALL_CHUNK", toolCallId: "c", toolCallName: "add", delta: "{" },
    { type: "TOOL_CALL_CHUNK", delta: "}" },
  );
  assert.deepEqual(view.items.map(textOf), ["ab", "{}"]);
  assert.equal(view.items[1].name, "add");
});

test("fold: an error keeps what was shown, marked", () => {
  const view = fold(...RUN.slice(0, 14), { type: "RUN_ERROR", code: "worker_lost", message: "Gone." });
  assert.equal(view.status, "failed");
  assert.deepEqual(view.error, { code: "worker_lost", message: "Gone." });
  assert.equal(textOf(view.items[2]), "abc");
  assert.deepEqual(view.items.map((item) => item.interrupted), [false, false, true, true]);
  assert.ok(view.items.every((item) => !item.open));
});

test("fold: text that the server closed before the error is marked, too", () => {
  const view = fold({ type: "TEXT_MESSAGE_START", messageId: "m" }, text("m", "a"), { type: "TEXT_MESSAGE_END", messageId: "m" }, {
    type: "RUN_FINISHED",
    outcome: { type: "cancelled" },
  });
  assert.equal(view.status, "cancelled");
  assert.equal(view.items[0].interrupted, true);
});

test("fold: an interrupt waits, and the answer goes on", () => {
  const interrupts = [{ id: "i", reason: "tool_call", message: "May I?" }];
  const view = fold(...RUN, { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts } });
  assert.equal(view.status, "waiting");
  assert.deepEqual(view.interrupts, interrupts);
  assert.ok(view.items.every((item) => !item.interrupted));
  applyEvent(view, { type: "RUN_STARTED" });
  assert.deepEqual([view.status, view.interrupts], ["running", []]);
});

test("fold: a call waits while it is asked about, and is denied by a no", () => {
  for (const [answer, denied] of [[{ status: "resolved", payload: { approved: false } }, true], [{ status: "resolved", payload: { approved: true } }, false], [{ status: "cancelled" }, true]]) {
    const view = fold(
      { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "mail" },
      { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts: [{ id: "i", reason: "tool_call", toolCallId: "c" }] } },
    );
    assert.deepEqual([view.items[0].waits, view.items[0].denied], [true, false]);
    applyEvent(view, { type: "RUN_STARTED", input: { resume: [{ interruptId: "i", ...answer }] } });
    assert.deepEqual([view.items[0].waits, view.items[0].denied], [false, denied]);
  }
});

test("fold: subagents hold what is theirs", () => {
  const view = fold(
    { type: "SUBAGENT_STARTED", subagentRunId: "a", name: "writer" },
    { type: "SUBAGENT_STARTED", subagentRunId: "b", name: "inner", parentSubagentRunId: "a" },
    { type: "TEXT_MESSAGE_START", messageId: "m", subagentRunId: "b" },
    { type: "SUBAGENT_ERROR", subagentRunId: "b", message: "no", code: "x" },
    { type: "SUBAGENT_FINISHED", subagentRunId: "a" },
  );
  assert.deepEqual(view.items.map((item) => item.parent), [null, "subagent:a", "subagent:b"]);
  assert.deepEqual(view.items[1].error, { code: "x", message: "no" });
  assert.equal(view.items[0].open, false);
});

test("fold: unknown events change nothing", () => {
  const view = newView();
  for (const type of ["RAW", "NEW", "toString", "__proto__", undefined]) assert.equal(applyEvent(view, { type }), null);
  assert.deepEqual(shown(view), shown(newView()));
});

test("fold: saved messages show what the events showed", () => {
  const events = fold(...RUN.filter((event) => !event.type.startsWith("STEP") && event.type !== "CUSTOM"), DONE);
  const messages = viewOfMessages({ status: "finished" }, [
    { role: "user", id: "u", content: "hi" },
    { role: "reasoning", id: "q", content: "hm" },
    { role: "assistant", id: "m", content: "abc", toolCalls: [{ id: "c", type: "function", function: { name: "add", arguments: '{"x":1}' } }] },
    { role: "tool", id: "tm", toolCallId: "c", content: [{ type: "text", text: "2" }] },
  ]);
  assert.deepEqual(shown(messages), shown(events));
});

test("fold: a saved run that was cut short says so, with and without its record", () => {
  const error = { code: "timeout", message: "Too slow." };
  const saved = [{ role: "assistant", id: "m", content: "par", metadata: { interrupted: true, error } }];
  for (const record of [undefined, { status: "failed", error }]) {
    const view = viewOfMessages(record, saved);
    assert.deepEqual([view.status, view.error, view.items[0].interrupted], ["failed", error, true]);
  }
});

test("fold: a file is shown from the stream and from the session alike", () => {
  const value = { mimeType: "image/png", size: 70000, blob: "ab", url: "/runs/r/blobs/ab" };
  const live = fold({ type: "CUSTOM", name: "gapless.file", value }, DONE);
  const later = viewOfMessages(null, [{ id: "f", role: "activity", activityType: "gapless.file", content: value }]);
  assert.equal(live.items[0].kind, "file");
  assert.equal(live.items[0].url, value.url);
  assert.deepEqual(shown(live).items, shown(later).items);
});

test("fold: what is said to a live run is the user's, live and loaded", () => {
  const live = newView();
  for (const [id, role, delta] of [["a", "assistant", "Hello"], ["u", "user", "Stop"], ["b", "assistant", "Yes?"]]) {
    applyEvent(live, { type: "TEXT_MESSAGE_START", messageId: id, role });
    applyEvent(live, { type: "TEXT_MESSAGE_CONTENT", messageId: id, delta });
    applyEvent(live, { type: "TEXT_MESSAGE_END", messageId: id });
  }
  const saved = [["first", "user", "Hi"], ["a", "assistant", "Hello"], ["u", "user", "Stop"], ["b", "assistant", "Yes?"]];
  const loaded = viewOfMessages(null, saved.map(([id, role, content]) => ({ id, role, content })));
  const shown = (view) => view.items.map((item) => [textOf(item), item.user ?? false]);
  assert.deepEqual(shown(live), [["Hello", false], ["Stop", true], ["Yes?", false]]);
  assert.deepEqual(shown(loaded), shown(live));
});
