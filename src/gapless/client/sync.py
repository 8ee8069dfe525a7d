"""The client for code without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from gapless.client.bodies import FeedChange, Page, Session
from gapless.client.client import ClientLimits, Cut, GaplessClient
from gapless.config import RunConfig
from gapless.errors import UsageError
from gapless.events import ContentPart, Event, Message, ResumeEntry
from gapless.live import LiveRequest
from gapless.notify import NoticeRecord, Webhook
from gapless.producing import Producer
from gapless.records import Listing, RunRecord, RunStatus

__all__ = ["SyncClient", "SyncProducer"]

_T = TypeVar("_T")


class SyncClient:
    """Does what `GaplessClient` does for code without an event loop: the same methods, blocking; `follow` is a
    generator.

    For one thread at a time. Raises `UsageError` inside an event loop. `base_url`, `api_key`, `headers`, `limits`,
    `on_cut` and `transport` are those of `GaplessClient`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        limits: ClientLimits | None = None,
        on_cut: Callable[[Cut], None] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = GaplessClient(
            base_url, api_key=api_key, headers=headers, limits=limits, on_cut=on_cut, transport=transport
        )
        self._loop = asyncio.Runner()
        self._closed = False

    def close(self) -> None:
        """Close the connections. Runs go on. Idempotent."""
        if not self._closed:
            self._call(self._client.aclose())
            self._closed = True
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if not self._closed:
                return self._loop.run(work)
            work.close()
            raise UsageError(f"the client of {self._client.base_url} is closed: make another one") from None
        work.close()
        raise UsageError("SyncClient blocks, and this is an event loop: use GaplessClient")

    def start(
        self,
        message: str | list[ContentPart],
        *,
        agent: str | None = None,
        session_id: str | None = None,
        run_id: str | None = None,
        config: RunConfig | None = None,
        producer: bool = False,
        notify: Webhook | None = None,
    ) -> RunRecord:
        """See `GaplessClient.start`."""
        started = self._client.start(
            message,
            agent=agent,
            session_id=session_id,
            run_id=run_id,
            config=config,
            producer=producer,
            notify=notify,
        )
        return self._call(started)

    def notices(self, run_id: str) -> list[NoticeRecord]:
        """See `GaplessClient.notices`."""
        return self._call(self._client.notices(run_id))

    def notify_again(self, run_id: str, notice_id: str) -> NoticeRecord:
        """See `GaplessClient.notify_again`."""
        return self._call(self._client.notify_again(run_id, notice_id))

    def follow(self, run_id: str, after: int = 0) -> Generator[tuple[int, Event], None, None]:
        """See `GaplessClient.follow`."""
        return self._each(self._client.follow(run_id, after))

    def follow_session(self, session_id: str, after: str = "0") -> Generator[tuple[str, Event], None, None]:
        """See `GaplessClient.follow_session`."""
        return self._each(self._client.follow_session(session_id, after))

    def follow_feed(self, after: str = "", *, everyone: bool = False) -> Generator[tuple[str, FeedChange], None, None]:
        """See `GaplessClient.follow_feed`."""
        return self._each(self._client.follow_feed(after, everyone=everyone))

    def _each(self, stream: AsyncGenerator[_T, None]) -> Generator[_T, None, None]:
        async def step() -> _T | None:
            return await anext(stream, None)

        try:
            while (item := self._call(step())) is not None:
                yield item
        finally:
            if not self._closed:
                self._call(stream.aclose())

    def cancel(self, run_id: str) -> RunRecord:
        """See `GaplessClient.cancel`."""
        return self._call(self._client.cancel(run_id))

    def answer(self, run_id: str, entries: list[ResumeEntry]) -> RunRecord:
        """See `GaplessClient.answer`."""
        return self._call(self._client.answer(run_id, entries))

    def send(self, run_id: str, request: LiveRequest | str) -> RunRecord:
        """See `GaplessClient.send`."""
        return self._call(self._client.send(run_id, request))

    def produce(self, run_id: str, *, name: str | None = None) -> SyncProducer:
        """See `GaplessClient.produce`: `with client.produce(id) as out`, then `out.send(…)`."""
        return SyncProducer(self._client.produce(run_id, name=name), self._call)

    def record(self, run_id: str) -> RunRecord:
        """See `GaplessClient.record`."""
        return self._call(self._client.record(run_id))

    def runs(
        self,
        *,
        session_id: str | None = None,
        status: RunStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Listing[RunRecord]:
        """See `GaplessClient.runs`."""
        return self._call(self._client.runs(session_id=session_id, status=status, limit=limit, after=after))

    def page(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """See `GaplessClient.page`."""
        return self._call(self._client.page(run_id, after, limit))

    def create_session(self, session_id: str | None = None, *, state: dict[str, Any] | None = None) -> Session:
        """See `GaplessClient.create_session`."""
        return self._call(self._client.create_session(session_id, state=state))

    def sessions(
        self, *, limit: int = 100, after: str | None = None, q: str | None = None, agent: str | None = None
    ) -> Listing[Session]:
        """See `GaplessClient.sessions`."""
        return self._call(self._client.sessions(limit=limit, after=after, q=q, agent=agent))

    def session(self, session_id: str) -> Session:
        """See `GaplessClient.session`."""
        return self._call(self._client.session(session_id))

    def messages(self, session_id: str) -> list[Message]:
        """See `GaplessClient.messages`."""
        return self._call(self._client.messages(session_id))

    def rename_session(self, session_id: str, title: str) -> Session:
        """See `GaplessClient.rename_session`."""
        return self._call(self._client.rename_session(session_id, title))

    def delete_session(self, session_id: str) -> None:
        """See `GaplessClient.delete_session`."""
        self._call(self._client.delete_session(session_id))


class SyncProducer:
    """Does what `producing.Producer` does for code without an event loop; made by `SyncClient.produce`.

    `producer` is what it blocks for, by `call`.
    """

    def __init__(self, producer: Producer, call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._producer = producer
        self._call = call

    @property
    def run_id(self) -> str:
        """Returns the run that it writes."""
        return self._producer.run_id

    @property
    def epoch(self) -> int:
        """Returns which producer of the run this is, counted from 1; 0 before it is entered."""
        return self._producer.epoch

    @property
    def number(self) -> int:
        """Returns how many batches were taken of the run, by it or by those before it."""
        return self._producer.number

    def __enter__(self) -> Self:
        self._call(self._producer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the run as it is: it ends with an event that ends it."""

    def send(self, *events: Event | str) -> int:
        """See `producing.Producer.send`."""
        number: int = self._call(self._producer.send(*events))
        return number
