"""What is done to the server: each function does one thing once, and notes what must not be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import Any
from urllib.parse import quote

from gapless.records import now_ms
from gapless.sse import EventStreamParser
from tests.attacks import fuzzer, served
from tests.attacks.connection import Connection, NoAnswer, request, ws_handshake
from tests.attacks.siege import CANARY, KEYS, OVERLOAD, Siege

OPENING = '{"text":""}'
"""The first frame of the wire `text`, which says where the stream is before there is a word."""
SILENT_S_MAX = 60.0
"""For as long a reader of a run may get nothing new: the run itself takes seconds."""
END_S_MAX = 90.0
"""What a run may take to end: where its worker was killed, others see that by its lease, on a busy machine later."""
LIST_LIMIT, PAGES_MAX = 1000, 10
TALKERS = ("words", "words", "steps", "state", "model", "fails")
WIRES = ("ag-ui", "ag-ui", *fuzzer.WIRES[1:])
UNFINISHED_S = 0.3
"""How long a request is held open of which the server awaits more."""

Seen = list[tuple[str, str, str]]
"""(id, event, data) of each frame that has data."""


async def fuzz(siege: Siege, rng: random.Random) -> None:
    """Send a request as no client makes them, and read its answer, or a part of it."""
    user = rng.choice(["mallory", "mallory", "mallory", "nobody"])
    seed = f"{siege.seed}:{siege.number()}"
    routes = await _routes(siege)
    if not routes:
        return
    key = KEYS.get(user) if rng.random() < 0.9 else "not-a-key-of-anybody"
    ids = fuzzer.Ids("mallory", served.AGENTS, tuple(siege.runs["mallory"]), tuple(siege.sessions["mallory"]))
    hostile = fuzzer.hostile_request(seed, routes, ids, key)
    since = time.monotonic()
    siege.sessions["mallory"].append(ids.session(rng))
    try:
        async with Connection(siege.server.port, hostile.raw) as connection:
            if hostile.unfinished:
                with contextlib.suppress(NoAnswer):
                    await connection.head(UNFINISHED_S)
                    await connection.body(UNFINISHED_S)
                status, body = connection.status, connection.received
            else:
                status = await connection.head()
                body = await _some(connection, rng)
    except NoAnswer as error:
        if error.hangs or rng.random() < 0:
            siege.unanswered("fuzzed", since, error, f"{seed}: {hostile.about}", hostile.raw)
        else:
            siege.tally.counts["fuzzed: closed without an answer"] += 1
        return
    if CANARY.encode() in body:
        siege.tally.fault("Mallory sees what is Alice's", about=hostile.about)
    if not status:
        siege.tally.counts["fuzzed: the server waits for more"] += 1
        return
    siege.took("fuzzed", status, f"{seed}: {hostile.about}", body, hostile.raw)
    if run_id := connection.headers.get("x-run-id"):
        siege.runs["mallory"].append(quote(run_id, safe=""))


async def _some(connection: Connection, rng: random.Random) -> bytes:
    """The body; of a stream a part."""
    if not connection.headers.get("content-type", "").startswith("text/event-stream"):
        return await connection.body()
    found, most = b"", rng.choice([0, 100, 10_000])
    with contextlib.suppress(NoAnswer):
        async for piece in connection.pieces(1.0):
            found += piece
            if len(found) > most:
                break
    return found


_known_routes: dict[int, list[tuple[str, str]]] = {}


async def _routes(siege: Siege) -> list[tuple[str, str]]:
    """All that the server says it has, and what it does not say."""
    port = siege.server.port
    if port not in _known_routes:
        _, api, _ = await siege.ask("GET", "/openapi.json", "mallory")
        if not api:
            return []
        found = [(method.upper(), path) for path, methods in api["paths"].items() for method in methods]
        found += [
            ("GET", path) for path in ("/", "/docs", "/live", "/static/page/chat.js", "/openapi.json", "/nowhere")
        ]
        _known_routes[port] = found
    return _known_routes[port]


async def fuzz_socket(siege: Siege, rng: random.Random) -> None:
    """Open a live run's WebSocket and send frames as no client makes them."""
    await siege.pace.turn()
    params = f"agent=live&session_id={siege.id()}"
    if rng.random() < 0.2:
        params = f"{rng.choice(fuzzer.PARAMS)}={quote(fuzzer.hostile_text(rng)[:500].encode('utf-8', 'surrogatepass'))}"
    raw = ws_handshake(f"/live?{params}", siege.headers("mallory"))
    frames = b"".join(fuzzer.hostile_frames(rng))
    since = time.monotonic()
    try:
        async with Connection(siege.server.port, raw) as connection:
            status = await connection.head()
            siege.took("sockets", status, f"GET /live?{params}", raw=raw)
            if status == 101:
                await connection.send(frames, rng.choice([0.0, 0.3]))
    except NoAnswer as error:
        siege.unanswered("socket", since, error, f"GET /live?{params}", raw)


# -- readers ----------------------------------------------------------------------------------------------------------


async def start(siege: Siege, agent: str, message: str, **config: Any) -> str | None:
    """Start a run of Alice's under an id of our choice; None where that cannot be."""
    run_id = siege.id()
    body = {"message": f"{message} {CANARY}", "agent": agent, "run_id": run_id, "config": config}
    status, _, content = await siege.ask("POST", "/runs", body=body)
    if status != 202:
        if status:
            siege.tally.fault("a run is not started", status=status, body=content[:300].decode("latin-1"))
        return None
    siege.runs["alice"].append(run_id)
    return run_id


async def follow(
    siege: Siege, rng: random.Random, run_id: str, wire: str, *, merge: bool, cut: bool = True, slow: bool = False
) -> Seen | None:
    """Follow a run to its end, cut again and again; None where that was not possible."""
    seen: Seen = []
    last_id, until = "", time.monotonic() + SILENT_S_MAX
    target = f"/runs/{run_id}/events?wire={wire}&merge={int(merge)}"
    while time.monotonic() < until:
        headers = {**siege.headers("alice"), "accept": "text/event-stream"}
        if last_id:
            headers["last-event-id"] = last_id
        raw, since = request("GET", target, headers), time.monotonic()
        parser = EventStreamParser()
        left = rng.choice([0, 50, 500, 3000, 20_000]) if cut and rng.random() < 0.8 else 1 << 40
        try:
            async with Connection(siege.server.port, raw, buffer_bytes=4096 if slow else None) as connection:
                status = await connection.head()
                if status == 204:
                    siege.took("followed", status, target)
                    return seen
                if status != 200:
                    siege.took("followed", status, target, await connection.body(), raw)
                    if status in OVERLOAD:
                        await asyncio.sleep(0.5)
                        continue
                    if status == 410:
                        siege.tally.counts["expired before it was read"] += 1
                    else:
                        siege.tally.fault("a reader is refused", status=status, about=f"{target} {last_id}")
                    return None
                siege.took("followed", status, target)
                async for piece in connection.pieces(count=1000 if slow else 65536):
                    for frame in parser.feed(piece[:left]):
                        if seen and frame.data == OPENING and frame.id == last_id:
                            continue  # nothing has come since: the stream begins as it did before
                        last_id = frame.id or last_id
                        if frame.data is not None and frame.event != "reconnect":
                            seen.append((frame.id or "", frame.event, frame.data))
                            until = time.monotonic() + SILENT_S_MAX
                    left -= len(piece)
                    if left <= 0:
                        siege.tally.counts["cuts"] += 1
                        break
                    if slow:
                        await asyncio.sleep(rng.choice([0.01, 0.3]))
        except NoAnswer as error:
            siege.unanswered("follower", since, error, target)
        await siege.pace.turn()
    siege.tally.fault("a reader does not come to the end", run=run_id, wire=wire, frames=len(seen))
    return None


async def journal(siege: Siege, run_id: str) -> list[Any] | None:
    """All of a run's events, in pages; None where they are gone."""
    events: list[Any] = []
    while True:
        target = f"/runs/{run_id}/events?after={len(events)}&limit=200"
        status, page, _ = await siege.ask("GET", target, headers={"accept": "application/json"})
        if status != 200:
            return None
        events += page["events"]
        if len(events) >= page["last_seq"]:
            return events


async def check_exact(siege: Siege, rng: random.Random, run_id: str, wire: str, seen: Seen, *, merge: bool) -> None:
    """Compare what a reader has seen with the journal; on a wire with frames of its own, with an undisturbed reader."""
    events = await journal(siege, run_id)
    if events is None:
        siege.tally.counts["expired before it was compared"] += 1
        return
    if wire == "ag-ui" and not merge:
        wanted = [(str(seq), event) for seq, event in enumerate(events, 1)]
        found = [(id, _stored(json.loads(data))) for id, _, data in seen]
        exact = wanted == found
    elif wire == "ag-ui":
        ids = [int(id) for id, _, _ in seen]
        exact = ids == sorted(set(ids)) and ids[-1:] == [len(events)]
        exact = exact and _text(json.loads(data) for _, _, data in seen) == _text(events)
    else:
        whole = await follow(siege, rng, run_id, wire, merge=False, cut=False)
        if whole is None:
            return
        exact = seen == whole
    siege.tally.counts["readers"] += 1
    if exact:
        siege.tally.counts["readers exact"] += 1
    else:
        siege.tally.fault(
            "a reader is not exact",
            run=run_id,
            wire=wire,
            merge=merge,
            seen=seen[-8:],
            count=len(seen),
            events=len(events),
        )


def _stored(event: dict[str, Any]) -> dict[str, Any]:
    """An event of the AG-UI wire as the journal has it: without the mark of a failed call that the wire adds for
    TanStack's client."""
    if "metadata" not in event:
        return event
    metadata = {key: value for key, value in event.pop("metadata").items() if key != "tanstack"}
    return {**event, "metadata": metadata} if metadata else event


def _text(events: Any) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")


async def read(siege: Siege, rng: random.Random) -> None:
    """Several readers follow one run, cut at random places; then they have all seen the whole of it, once."""
    count, pace_s = rng.randrange(1, 80), rng.choice([0.0, 0.01, 0.05])
    on_lost = rng.choice(["continue", "fail", "restart"])
    message = f"{count} {pace_s} {rng.choice([3, 20, 2000])}"
    run_id = await start(siege, rng.choice(TALKERS), message, on_worker_lost=on_lost)
    if run_id is None:
        return

    async def one(wire: str, merge: bool) -> None:
        seen = await follow(siege, rng, run_id, wire, merge=merge)
        if seen is not None:
            await check_exact(siege, rng, run_id, wire, seen, merge=merge)

    await asyncio.gather(
        one("ag-ui", False), one("ag-ui", True), *(one(rng.choice(WIRES), False) for _ in range(rng.randrange(3)))
    )


async def read_slowly(siege: Siege, rng: random.Random) -> None:
    """A reader that takes little at a time of a long answer; it is exact, and holds nobody up."""
    run_id = await start(siege, "words", f"{rng.randrange(50, 100)} 0.005 {rng.choice([500, 2000])}")
    if run_id is not None:
        merge = rng.random() < 0.5
        seen = await follow(siege, rng, run_id, "ag-ui", merge=merge, slow=True)
        if seen is not None:
            await check_exact(siege, rng, run_id, "ag-ui", seen, merge=merge)


async def cancel(siege: Siege, rng: random.Random) -> None:
    """Cancel a run while it is followed, through whichever worker; it ends soon, and its reader is exact."""
    run_id = await start(siege, rng.choice(["words", "asks", "steps"]), "400 0.1 5")
    if run_id is None:
        return
    reading = asyncio.create_task(follow(siege, rng, run_id, "ag-ui", merge=False))
    try:
        await asyncio.sleep(rng.uniform(0, 1.5))
        await siege.ask("POST", f"/runs/{run_id}/cancel")
        record = await ended(siege, run_id)
        if record is not None:
            code = (record.get("error") or {}).get("code")
            if record["status"] not in ("cancelled", "finished") and code not in ("worker_lost", "run_cancelled"):
                siege.tally.fault("a cancelled run ends otherwise", record=record)
            siege.tally.counts["cancelled"] += 1
        seen = await reading
    finally:
        reading.cancel()
    if seen is not None:
        await check_exact(siege, rng, run_id, "ag-ui", seen, merge=False)


async def ended(siege: Siege, run_id: str) -> dict[str, Any] | None:
    """A run's record once it has ended, which it must."""
    until = time.monotonic() + END_S_MAX
    while time.monotonic() < until:
        status, record, _ = await siege.ask("GET", f"/runs/{run_id}")
        if status == 200 and record["status"] in ("finished", "failed", "cancelled"):
            return dict(record)
        if status == 404:
            siege.tally.fault("a run is gone", run=run_id)
            return None
        await asyncio.sleep(0.2)
    siege.tally.fault("a run does not end", run=run_id)
    return None


async def answer(siege: Siege, rng: random.Random) -> None:
    """Answer a run that asks, twice at once: one answer counts, and the run goes on once."""
    run_id = await start(siege, "asks", "5 0.01 5")
    if run_id is None:
        return
    until = time.monotonic() + END_S_MAX
    while time.monotonic() < until:
        _, record, _ = await siege.ask("GET", f"/runs/{run_id}")
        if record and record["status"] != "running" and record["status"] != "queued":
            break
        await asyncio.sleep(0.05)
    body = {"resume": [{"interruptId": "q", "status": "resolved", "payload": True}]}
    answers = await asyncio.gather(*(siege.ask("POST", f"/runs/{run_id}/input", body=body) for _ in range(2)))
    for status, _, content in answers:
        if status not in (0, 202, 409, 422):
            siege.tally.fault("an answer is refused", status=status, body=content[:300].decode("latin-1"))
    siege.tally.counts["answered"] += 1
    record = await ended(siege, run_id)
    events = await journal(siege, run_id)
    if record is not None and events is not None and record["status"] == "finished":
        text = _text(events)
        if text.count("after resolved") != 1 or CANARY not in text:
            siege.tally.fault("an answered run is not whole", text=text[:300], run=run_id)


# -- others' things ---------------------------------------------------------------------------------------------------

TRESPASSES = (
    ("GET", "/runs/{run}"),
    ("GET", "/runs/{run}/events"),
    ("POST", "/runs/{run}/cancel"),
    ("GET", "/sessions/{session}"),
    ("GET", "/sessions/{session}/messages"),
    ("PATCH", "/sessions/{session}"),
    ("DELETE", "/sessions/{session}"),
    ("GET", "/apps/words/users/mallory/sessions/{session}"),
    ("GET", "/apps/words/users/alice/sessions/{session}"),
    ("DELETE", "/apps/words/users/mallory/sessions/{session}"),
    ("GET", "/apps/words/users/alice/sessions"),
    ("GET", "/apps/words/users/mallory/runs/{run}/events"),
    ("POST", "/apps/words/users/mallory/runs/{run}/cancel"),
    ("GET", "/v1/responses/{run}"),
    ("POST", "/v1/responses/{run}/cancel"),
    ("GET", "/ag-ui?runId={run}"),
    ("GET", "/vercel/chat/{session}/messages"),
    ("GET", "/vercel/chat/{session}/stream"),
    ("POST", "/vercel/chat/{session}/stop"),
    ("GET", "/chat/stream?run_id={run}"),
)


async def trespass(siege: Siege, rng: random.Random) -> None:
    """Mallory asks for what is Alice's: it is answered as for what there is not."""
    if not siege.runs["alice"]:
        return
    run_id = rng.choice(siege.runs["alice"])
    status, record, _ = await siege.ask("GET", f"/runs/{run_id}")
    if status != 200:
        return
    method, template = rng.choice(TRESPASSES)
    target = template.format(run=run_id, session=quote(record["session_id"], safe=""))
    status, _, content = await siege.ask(method, target, "mallory")
    nowhere = siege.id()
    other, _, _ = await siege.ask(method, template.format(run=nowhere, session=nowhere), "mallory")
    siege.tally.counts["trespasses"] += 1
    if CANARY.encode() in content:
        siege.tally.fault("Mallory sees what is Alice's", about=f"{method} {target}")
    if status and other and status != other:
        siege.tally.fault("Alice's is told from what there is not", about=f"{method} {target}", got=[status, other])


async def list_all(siege: Siege, rng: random.Random) -> None:
    """List what there is, whole: it is one's own."""
    user = rng.choice(list(KEYS))
    kind = rng.choice(["runs", "sessions"])
    limit, after, seen = rng.choice([3, 30, LIST_LIMIT]), "", list[str]()
    for _ in range(PAGES_MAX):
        status, found, content = await siege.ask("GET", f"/{kind}?limit={limit}{after}", user)
        if status != 200:
            return
        seen += [one["id"] for one in found[kind]]
        if {one["user_id"] for one in found[kind]} - {user} or (user == "mallory" and CANARY.encode() in content):
            siege.tally.fault("a list has what is another's", user=user, list=kind)
        if "next" not in found:
            break
        after = f"&after={quote(found['next'].encode('utf-8', 'surrogatepass'), safe='')}"
    siege.tally.counts["listed"] += len(seen)
    if kind == "runs" and len(seen) != len(set(seen)):  # a session that is used meanwhile comes again, at the beginning
        siege.tally.fault("a list has something twice", user=user, limit=limit)
    await asyncio.sleep(1.0)


async def talk(siege: Siege, rng: random.Random) -> None:
    """Hold a conversation of several turns, and read it back."""
    session, turns = siege.id(), rng.randrange(2, 5)
    for _ in range(turns):
        config = {"on_busy": "queue", "on_worker_lost": "fail"}
        body = {"message": f"3 0 5 {CANARY}", "agent": rng.choice(["words", "state"]), "session_id": session}
        run_id = siege.id()
        status, _, _ = await siege.ask("POST", "/runs", body={**body, "run_id": run_id, "config": config})
        if status == 202:
            await ended(siege, run_id)
    status, found, _ = await siege.ask("GET", f"/sessions/{session}/messages")
    if status == 200 and sum(message["role"] == "user" for message in found["messages"]) > turns:
        siege.tally.fault("a conversation has more turns than were said", session=session)
    siege.tally.counts["conversations"] += 1


async def tidy(siege: Siege, rng: random.Random) -> None:
    """Delete the sessions that nobody has used for long: what is kept for good would grow for ever."""
    for user in KEYS:
        before = now_ms() - int(siege.kept_s * 1000)
        status, found, _ = await siege.ask("GET", f"/sessions?limit={LIST_LIMIT}&after={before}:", user)
        if status != 200:
            continue
        for session in found["sessions"]:
            if session["updated_at"] < before and not siege.ending.is_set():
                target = f"/sessions/{quote(session['id'].encode('utf-8', 'surrogatepass'), safe='')}"
                status, _, content = await siege.ask("DELETE", target, user)
                siege.tally.counts["deleted"] += status == 204
                if status not in (0, 204, 404, 409):
                    siege.tally.fault("a session is not deleted", status=status, body=content[:300].decode("latin-1"))
    await asyncio.sleep(2.0)


ALL = (*[fuzz] * 4, fuzz_socket, *[read] * 3, read_slowly, cancel, answer, trespass, list_all, talk, *[tidy] * 2)
