/** Types of stream.js: see there for what each part promises. */

export interface Limits {
  retryDelayMsMin: number;
  retryDelayMsMax: number;
  attemptsMax: number;
  idleTimeoutMs: number;
  frameCharsMax: number;
  seenIdsMax: number;
  postAttemptsMax: number;
  answerBytesMax: number;
}

export const LIMITS: Readonly<Limits>;

export class StreamError extends Error {
  constructor(message: string, options?: { status?: number; code?: string; runId?: string; cause?: unknown });
  /** The HTTP status, 0 when there was no usable answer. */
  readonly status: number;
  readonly code: string;
  readonly runId?: string;
}

export interface Frame {
  /** The frame's own id, null if it has none. */
  id: string | null;
  /** "message" unless the frame names another. */
  event: string;
  /** Null for a frame that has no data field. */
  data: string | null;
  /** With the option `raw`: the frame as it came, comments left out and line ends as LF. */
  raw?: string;
}

export class EventStreamParser {
  constructor(options?: { frameCharsMax?: number; raw?: boolean });
  readonly lastEventId: string;
  readonly retryMs: number | null;
  push(text: string): Frame[];
}

export function readFrames(
  body: ReadableStream<Uint8Array>,
  options?: { parser?: EventStreamParser; onBytes?: () => void },
): AsyncGenerator<Frame, void, void>;

export type Headers = Record<string, string> | (() => Record<string, string>);
export type ConnectionState = "connecting" | "open" | "reconnecting" | "closed";
export type OnStateChange = (
  state: ConnectionState,
  detail: { attempt?: number; delayMs?: number; error?: unknown },
) => void;

export type OnRetry = (detail: { attempt: number; error: unknown }) => void;

export interface FollowOptions {
  /** The id of the last event already known. */
  after?: string;
  headers?: Headers;
  signal?: AbortSignal;
  fetch?: typeof fetch;
  onStateChange?: OnStateChange;
  /** Frames come with their text. */
  raw?: boolean;
  limits?: Partial<Limits>;
}

/** Yields each frame once, in order; returns the end frame, or nothing when the server answered 204. */
export function follow(url: string | URL | (() => string | URL), options?: FollowOptions): AsyncGenerator<Frame, Frame | undefined, void>;

/** The name of the CUSTOM event that says how a session stands; `SessionNews` is its value. */
export const SESSION: "gapless.session";

export interface SessionNews {
  /** Its `state` only where that may be new. */
  session: SessionRecord;
  /** Its runs that have not ended, in the order in which they are executed. */
  runs: { id: string; status: RunStatus; agent: string; created_at: number; started_at: number | null }[];
}

/** The name of the CUSTOM event in a session's stream that says what the feed says; `FeedNews` is its value. */
export const FEED: "gapless.feed";

/** What has become of one of the caller's sessions; `reset`: read the list of them anew. */
export type FeedChange =
  | { type: "session"; session: SessionRecord & { newest_run_id?: string; newest_run_status?: RunStatus } }
  | { type: "deleted"; session_id: string }
  | { type: "changed"; session_id: string }
  | { type: "reset" };

/** `cursor` is what the option `feed` takes to go on behind it. */
export type FeedNews = FeedChange & { cursor: string };

export type RunStatus = "queued" | "running" | "waiting" | "finished" | "failed" | "cancelled";

export interface RunRecord {
  id: string;
  session_id: string;
  status: RunStatus;
  created_at: number;
  started_at?: number;
  ended_at?: number;
  last_seq?: number;
  user_id?: string;
  agent?: string;
  message?: string;
  error?: { code: string; message: string };
  after_run_id?: string;
}

export interface SessionRecord {
  id: string;
  agent: string;
  title?: string;
  state?: Json;
  created_at: number;
  updated_at: number;
  active_run_id?: string;
  active_run_status?: RunStatus;
  /** Of a search: the text around what was found, where that is not in the title. */
  found?: string;
}

/** An AG-UI event or message, as it is on the wire; `@ag-ui/core` has a type for each. */
export type Json = { [key: string]: any };
export type AgUiEvent = Json & { type: string };

export interface ResumeEntry {
  interruptId: string;
  status: "resolved" | "cancelled";
  payload?: unknown;
}

/** Something that is said to a live run. `data` is base64. */
export type LiveRequest =
  | { content: string | Json[]; id?: string }
  | { blob: { data: string; mime_type?: string } }
  | { activity_start: true }
  | { activity_end: true }
  | { close: true };

export class GaplessClient {
  constructor(options?: { baseUrl?: string | URL; headers?: Headers; fetch?: typeof fetch; limits?: Partial<Limits> });
  start(options: {
    /** Text, or AG-UI's parts. */
    message: string | Json[];
    sessionId?: string;
    runId?: string;
    agent?: string;
    config?: Json;
    /** The run of the session that the message is asked after, "" for none, in the place of what followed. */
    afterRunId?: string;
    /** Who is told when the run waits for a person and when it has ended; `text`: with what is asked. */
    notify?: { url: string; secret?: string; text?: boolean };
    signal?: AbortSignal;
    onRetry?: OnRetry;
  }): Promise<RunRecord>;
  follow(
    runId: string,
    options?: { after?: string; signal?: AbortSignal; onStateChange?: OnStateChange },
  ): AsyncGenerator<{ id: string | null; event: AgUiEvent }, void, void>;
  followSession(
    sessionId: string,
    options?: {
      after?: string;
      feed?: string | true;
      /** The feed is that of all users, for operators. */
      everyone?: boolean;
      signal?: AbortSignal;
      onStateChange?: OnStateChange;
    },
  ): AsyncGenerator<{ id: string; runId?: string; event: AgUiEvent }, void, void>;
  followFeed(options?: {
    after?: string;
    everyone?: boolean;
    signal?: AbortSignal;
    onStateChange?: OnStateChange;
  }): AsyncGenerator<{ id: string; change: FeedChange }, void, void>;
  run(runId: string, options?: { signal?: AbortSignal }): Promise<RunRecord>;
  runs(options?: {
    sessionId?: string;
    limit?: number;
    after?: string;
    signal?: AbortSignal;
  }): Promise<RunRecord[] & { next?: string }>;
  cancel(runId: string, options?: { signal?: AbortSignal; onRetry?: OnRetry }): Promise<RunRecord>;
  answer(runId: string, resume: ResumeEntry[], options?: { signal?: AbortSignal }): Promise<RunRecord>;
  send(
    runId: string,
    said: string | LiveRequest,
    options?: { signal?: AbortSignal; onRetry?: OnRetry },
  ): Promise<RunRecord>;
  sessions(options?: {
    limit?: number;
    after?: string;
    q?: string;
    agent?: string;
    signal?: AbortSignal;
  }): Promise<SessionRecord[] & { next?: string }>;
  createSession(options?: {
    sessionId?: string;
    state?: Json;
    signal?: AbortSignal;
    onRetry?: OnRetry;
  }): Promise<SessionRecord>;
  session(sessionId: string, options?: { signal?: AbortSignal }): Promise<SessionRecord>;
  messages(sessionId: string, options?: { signal?: AbortSignal }): Promise<Json[]>;
  renameSession(
    sessionId: string,
    title: string,
    options?: { signal?: AbortSignal; onRetry?: OnRetry },
  ): Promise<SessionRecord>;
  deleteSession(sessionId: string, options?: { signal?: AbortSignal }): Promise<void>;
}

export function newId(): string;
