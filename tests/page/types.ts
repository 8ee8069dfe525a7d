/** Compiled, never run: the types take what the documents show, and refuse what the client would. */
import { FEED, GaplessClient, SESSION, StreamError, createDurableFetch, follow } from "gapless-client";
import type { AgUiEvent, FeedNews, Frame, RunRecord, SessionNews, SessionRecord } from "gapless-client";

const here = new URL("/agents/", location.href);
const headers = () => ({ Authorization: "Bearer key" });
export const clients = [
  new GaplessClient(),
  new GaplessClient({ baseUrl: here, headers, fetch, limits: { attemptsMax: 10 } }),
  new GaplessClient({ baseUrl: here.href, headers: headers() }),
  // @ts-expect-error: no URL
  new GaplessClient({ baseUrl: 8000 }),
];
export const durable: typeof fetch = createDurableFetch({ limits: { attemptsMax: 10 } });

export async function ask(client: GaplessClient, message: string, show: (text: string) => void): Promise<string | null> {
  let last: string | null = null;
  const run: RunRecord = await client.start({ message, sessionId: "s", config: { timeout: 5 } });
  for await (const { id, event } of client.follow(run.id, { after: "0" })) {
    last = id;
    if (event.type === "TEXT_MESSAGE_CONTENT") show(event.delta);
    if (event.type === "RUN_ERROR") throw new Error(event.message);
    if (event.type === "RUN_FINISHED" && event.outcome?.type === "interrupt") {
      await client.answer(run.id, [{ interruptId: event.outcome.interrupts[0].id, status: "resolved", payload: true }]);
    }
  }
  await client.start({ message: [{ type: "text", text: message }], sessionId: "s", afterRunId: run.after_run_id ?? "" });
  await client.send(run.id, "and?");
  await client.send(run.id, { close: true });
  // @ts-expect-error: nothing is said
  await client.send(run.id, {});
  // @ts-expect-error: a run needs a message
  await client.start({ sessionId: "s" });
  return last;
}

export async function conversation(client: GaplessClient, show: (text: string, of: string | undefined) => void): Promise<void> {
  for await (const { id, runId, event } of client.followSession("s", { after: "latest" })) {
    if (event.type === "CUSTOM" && event.name === SESSION) {
      const { session, runs }: SessionNews = event.value;
      show(`${session.title}: ${runs.map((run) => run.status).join()} ${id.length}`, runs[0]?.id);
    } else show(event.type, runId);
  }
}

export async function feed(client: GaplessClient): Promise<string> {
  for await (const { event } of client.followSession("s", { feed: true, everyone: true })) {
    if (event.type === "CUSTOM" && event.name === FEED) return (event.value as FeedNews).cursor;
  }
  for await (const { id, change } of client.followFeed({ after: "x-1" })) {
    if (change.type === "session") return change.session.newest_run_status ?? change.session.id;
    // @ts-expect-error: that says nothing more
    if (change.type === "reset") return change.session_id;
    return `${id} ${change.session_id}`;
  }
  return "";
}

export async function sessions(client: GaplessClient): Promise<SessionRecord[]> {
  const made = [
    await client.createSession(),
    await client.createSession({ sessionId: "s", state: { turns: 1 }, onRetry: ({ attempt }) => attempt + 1 }),
    // @ts-expect-error: a state is an object
    await client.createSession({ state: 1 }),
  ];
  const turns: number = made[1]?.state?.turns;
  const events: AgUiEvent[] = [{ type: "CUSTOM", value: turns }];
  return events.length > 0 ? made : client.sessions();
}

export async function frames(url: URL, signal: AbortSignal): Promise<Frame[]> {
  const all: Frame[] = [];
  try {
    for await (const frame of follow(url, { signal, onStateChange: (state) => state === "open" })) all.push(frame);
  } catch (error) {
    if (!(error instanceof StreamError) || error.status !== 404) throw error;
  }
  return all;
}
