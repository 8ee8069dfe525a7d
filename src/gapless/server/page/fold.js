/**
 * Folds the AG-UI events of a run into what a page shows of it. The same events give the same view, however they were
 * split over connections, tabs and reloads: a reload or a second tab folds the run again from its start.
 *
 * A view is `{ status, items, error, interrupts }`. `status` is one of queued, running, waiting, finished, failed,
 * cancelled. An item is one of
 *
 *   { kind: "text",      key, parent, open, interrupted, chunks, user }
 *   { kind: "reasoning", key, parent, open, interrupted, chunks }
 *   { kind: "tool",      key, parent, open, interrupted, name, chunks, result, failed, waits, denied }
 *   { kind: "step",      key, parent, open, interrupted, name }
 *   { kind: "subagent",  key, parent, open, interrupted, name, description, error }
 *   { kind: "notice",    key, parent, code, message }
 *   { kind: "file",      key, parent, mimeType, name, size, data, blob, url }; an artifact has a `version` and none of the last four
 *
 * A text is the `user`'s where it was said to a live run. A tool `waits` while a person is asked about it, and was
 * `denied` where the person said no.
 *
 * `chunks` are the pieces of text in order (a tool's are its arguments): a renderer keeps its place in the list, so a
 * delta costs what the delta is long. `parent` is the key of the subagent that an item belongs to, or null.
 *
 * What a lost worker said after the run's last checkpoint is taken back by name: its items go, and of text that began
 * before it another item with the same key takes the place. `view.takenBack` has the keys, until a renderer clears it.
 */

const FILE = "gapless.file";
const ARTIFACT = "gapless.artifact";
/** What a question without a schema that wants a yes or a no gives as its reason. */
const APPROVING = /^(tool_call|confirm|approv)/;

/** A view before its first event. */
export function newView() {
  return {
    status: "queued", items: [], error: null, interrupts: [],
    byKey: new Map(), last: {}, steps: 0, notices: 0, files: 0, results: new Map(), takenBack: new Set(),
  };
}

/** The text of an item that has chunks. */
export function textOf(item) {
  return item.chunks.join("");
}

/** True once a run can bring no more events by itself. */
export function isSettled(status) {
  return status === "finished" || status === "failed" || status === "cancelled" || status === "waiting";
}

/** True where a run has ended well and there is nothing to show of it. */
export function isEmpty({ status, items }) {
  return status === "finished" && items.every((item) => item.kind === "text" && textOf(item) === "");
}

/** Applies one event to a view, in place. Unknown events change nothing. Returns the item that changed, or null. */
export function applyEvent(view, event) {
  return HANDLERS[event.type]?.(view, event) ?? null;
}

const HANDLERS = {
  __proto__: null, // a type named after a method of Object is unknown like any other

  RUN_STARTED(view, { input }) {
    for (const item of view.items) if (item.kind === "tool") item.waits = false;
    for (const entry of input?.resume ?? []) {
      const asked = view.interrupts.find(({ id }) => id === entry.interruptId);
      const item = view.byKey.get(`tool:${asked?.toolCallId}`);
      if (item && kindOf(asked) === "approval" && denies(entry)) item.denied = true;
    }
    view.status = "running";
    view.interrupts = [];
  },
  RUN_FINISHED(view, { outcome }) {
    if (outcome?.type === "interrupt") {
      view.status = "waiting";
      view.interrupts = outcome.interrupts;
      for (const { toolCallId } of view.interrupts) {
        const item = view.byKey.get(`tool:${toolCallId}`);
        if (item) item.waits = true;
      }
    } else if (outcome?.type === "cancelled") {
      view.status = "cancelled";
      cutShort(view);
    } else {
      view.status = "finished";
    }
    closeAll(view);
  },
  RUN_ERROR(view, { message, code }) {
    view.status = "failed";
    view.error = { code: code ?? "error", message };
    cutShort(view);
    closeAll(view);
  },

  TEXT_MESSAGE_START(view, event) {
    return chunked(view, "text", event.messageId, event);
  },
  TEXT_MESSAGE_CONTENT(view, event) {
    return append(chunked(view, "text", event.messageId, event), event.delta);
  },
  TEXT_MESSAGE_END(view, event) {
    return close(view, `text:${event.messageId}`);
  },
  TEXT_MESSAGE_CHUNK(view, event) {
    return append(chunked(view, "text", event.messageId, event), event.delta);
  },

  REASONING_MESSAGE_START(view, event) {
    return chunked(view, "reasoning", event.messageId, event);
  },
  REASONING_MESSAGE_CONTENT(view, event) {
    return append(chunked(view, "reasoning", event.messageId, event), event.delta);
  },
  REASONING_MESSAGE_END(view, event) {
    return close(view, `reasoning:${event.messageId}`);
  },
  REASONING_MESSAGE_CHUNK(view, event) {
    return append(chunked(view, "reasoning", event.messageId, event), event.delta);
  },

  TOOL_CALL_START(view, event) {
    return tool(view, event.toolCallId, event);
  },
  TOOL_CALL_ARGS(view, event) {
    return append(tool(view, event.toolCallId, event), event.delta);
  },
  TOOL_CALL_CHUNK(view, event) {
    return append(tool(view, event.toolCallId, event), event.delta);
  },
  // TOOL_CALL_END closes the arguments only: the call stays open until its result is there or the run ends.
  TOOL_CALL_RESULT(view, event) {
    const item = tool(view, event.toolCallId, event);
    item.result = contentText(event.content);
    view.results.set(event.messageId, item.key);
    item.failed = event.error !== undefined;
    item.interrupted = event.metadata?.interrupted === true;
    item.open = false;
    return item;
  },

  STEP_STARTED(view, event) {
    view.steps += 1;
    return put(view, { kind: "step", key: `step:${view.steps}`, parent: parentOf(event), name: event.stepName });
  },
  STEP_FINISHED(view, event) {
    const item = view.items.findLast((it) => it.kind === "step" && it.open && it.name === event.stepName);
    return item ? close(view, item.key) : null;
  },

  SUBAGENT_STARTED(view, event) {
    return put(view, {
      kind: "subagent",
      key: `subagent:${event.subagentRunId}`,
      parent: event.parentSubagentRunId ? `subagent:${event.parentSubagentRunId}` : null,
      name: event.name,
      description: event.description ?? "",
      error: null,
    });
  },
  SUBAGENT_FINISHED(view, event) {
    return close(view, `subagent:${event.subagentRunId}`);
  },
  SUBAGENT_ERROR(view, event) {
    const item = close(view, `subagent:${event.subagentRunId}`);
    if (item) item.error = { code: event.code ?? "error", message: event.message };
    return item;
  },

  CUSTOM(view, event) {
    if (event.name === FILE) return file(view, event.value);
    if (event.name === ARTIFACT) return artifact(view, event.value);
    if (event.name === "gapless.void") return takeBack(view, event.value ?? {});
    if (event.name === "gapless.restarted") return takeBackAll(view);
    if (event.name !== "gapless.notice") return null;
    view.notices += 1;
    return put(view, {
      kind: "notice",
      key: `notice:${view.notices}`,
      parent: null,
      code: event.value?.code ?? "notice",
      message: event.value?.message ?? "",
    });
  },
};

/** The view of an ended run, from its record and its saved messages (the user's own message, the first, is left out). */
export function viewOfMessages(record, messages) {
  const view = newView();
  for (const [place, message] of messages.entries()) {
    const parent = parentOf(message);
    if (message.role === "user" && place > 0) {
      put(view, { kind: "text", key: `text:${message.id}`, parent, chunks: [contentText(message.content)], user: true });
    } else if (message.role === "assistant") {
      if (message.content) {
        const item = put(view, { kind: "text", key: `text:${message.id}`, parent, chunks: [message.content], user: false });
        if (message.metadata?.interrupted) item.interrupted = true;
      }
      for (const call of message.toolCalls ?? []) {
        append(tool(view, call.id, { toolCallName: call.function.name }), call.function.arguments);
      }
      if (message.metadata?.error) view.error = message.metadata.error;
      if (message.metadata?.interrupted) view.status = message.metadata.error ? "failed" : "cancelled";
    } else if (message.role === "tool") {
      const item = tool(view, message.toolCallId, {});
      item.result = contentText(message.content);
      item.failed = message.error !== undefined;
      item.interrupted = message.metadata?.interrupted === true;
      item.denied = message.metadata?.denied === true;
      item.open = false;
    } else if (message.role === "activity" && message.activityType === FILE) {
      file(view, message.content);
    } else if (message.role === "activity" && message.activityType === ARTIFACT) {
      artifact(view, message.content);
    } else if (message.role === "reasoning") {
      put(view, { kind: "reasoning", key: `reasoning:${message.id}`, parent, chunks: [message.content] });
    }
  }
  if (view.status === "queued") view.status = "finished";
  if (record) {
    view.status = record.status;
    view.error = record.status === "failed" ? (record.error ?? view.error) : null;
  }
  if (view.status === "failed" || view.status === "cancelled") cutShort(view);
  closeAll(view);
  return view;
}

/** How a question is answered: credential, approval, form, result (of a call that is executed elsewhere) or text. */
export function kindOf({ reason, responseSchema, metadata }) {
  const kind = metadata?.kind;
  if (kind === "credential" || reason === "credential_required") return "credential";
  if (kind === "approval" || responseSchema?.properties?.approved) return "approval";
  if (responseSchema && Object.keys(responseSchema).length > 0) return "form";
  if (kind === "external") return "result";
  return kind !== "question" && APPROVING.test(reason ?? "") ? "approval" : "text";
}

/** What a question asks, in words. */
export function askedIn({ message, reason }) {
  return message ?? (reason ?? "question").replaceAll("_", " ");
}

function denies({ status, payload }) {
  return status === "cancelled" || payload === false || payload?.approved === false;
}

/** A message's content as text: parts that are not text are named by their type. */
export function contentText(content) {
  if (typeof content === "string") return content;
  return (content ?? []).map((part) => (part.type === "text" ? part.text : `[${part.type}]`)).join("\n");
}

/** A file of the answer: its base64 in `data`, or else where it is, a blob of the run's or any `url`. */
function file(view, value) {
  view.files += 1;
  const { mimeType, name = "", size = null, data = null, blob = null, url = null } = value ?? {};
  const fields = { mimeType: mimeType ?? "application/octet-stream", name, size, data, blob, url };
  return put(view, { kind: "file", key: `file:${view.files}`, parent: null, open: false, ...fields });
}

/** A file that the agent's framework keeps, of one version; what it is shows when it is fetched. */
function artifact(view, value) {
  const { name = "", version = null } = value ?? {};
  const fields = { mimeType: "", name, version, size: null, data: null, blob: null, url: null };
  return put(view, { kind: "file", key: `artifact:${version}:${name}`, parent: null, open: false, ...fields });
}

function put(view, item) {
  const known = view.byKey.get(item.key);
  if (known) return known;
  const made = { open: true, interrupted: false, ...item };
  view.items.push(made);
  view.byKey.set(made.key, made);
  return made;
}

/** The text or reasoning item of a message. A chunk event without an id goes on with the last message of its kind. */
function chunked(view, kind, id, event) {
  const messageId = id ?? view.last[kind];
  view.last[kind] = messageId;
  return put(view, { kind, key: `${kind}:${messageId}`, parent: parentOf(event), chunks: [], ...(kind === "text" ? { user: event.role === "user" } : {}) });
}

function tool(view, id, event) {
  const callId = id ?? view.last.tool;
  view.last.tool = callId;
  return put(view, {
    kind: "tool",
    key: `tool:${callId}`,
    parent: parentOf(event),
    name: event.toolCallName ?? "tool",
    chunks: [],
    result: null,
    failed: false,
    waits: false,
    denied: false,
  });
}

function takeBack(view, { messageIds = [], toolCallIds = [], cut = {} }) {
  const results = new Set(messageIds.map((id) => view.results.get(id)));
  const calls = new Set(toolCallIds.map((id) => `tool:${id}`));
  const keys = new Set(messageIds.flatMap((id) => [`text:${id}`, `reasoning:${id}`]));
  view.items = view.items.flatMap((item) => {
    if (keys.has(item.key) || calls.has(item.key)) return gone(view, item);
    if (results.has(item.key)) return anew(view, item, { result: null, failed: false });
    const chars = item.kind === "text" || item.kind === "reasoning" ? cut[item.key.slice(item.kind.length + 1)] : undefined;
    if (chars === undefined) return [item];
    return anew(view, item, { chunks: [Array.from(textOf(item)).slice(0, chars).join("")] });
  });
  return null;
}

function takeBackAll(view) {
  view.items = view.items.flatMap((item) => (item.kind === "notice" ? [item] : gone(view, item)));
  view.last = {};
  return null;
}

function gone(view, item) {
  view.byKey.delete(item.key);
  view.takenBack.add(item.key);
  return [];
}

/** The item as it was: it may go on, or be closed with the run. */
function anew(view, item, change) {
  const made = { ...item, ...change, open: true, interrupted: false };
  view.byKey.set(made.key, made);
  view.takenBack.add(made.key);
  return [made];
}

function append(item, delta) {
  if (delta) item.chunks.push(delta);
  return item;
}

function close(view, key) {
  const item = view.byKey.get(key);
  if (item) item.open = false;
  return item ?? null;
}

function closeAll(view) {
  for (const item of view.items) item.open = false;
}

/** Marks what a cancel or an error cut short: everything open, and the text that was last, open or already closed. */
function cutShort(view) {
  for (const item of view.items) if (item.open) item.interrupted = true;
  const last = view.items.at(-1);
  if (last?.kind === "text" && !last.user) last.interrupted = true;
}

function parentOf({ subagentRunId }) {
  return subagentRunId ? `subagent:${subagentRunId}` : null;
}
