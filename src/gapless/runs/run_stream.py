"""One run as text or typed output that grows: `async with runner.run_stream(…) as stream`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from gapless.errors import OutputInvalid, RunCancelled
from gapless.jsontext import decode_json
from gapless.output import GrowingOutput, OutputType
from gapless.runs.run import Run

__all__ = ["RunStream"]

_OutputT = TypeVar("_OutputT")


class RunStream(Generic[_OutputT]):
    """Shows one run as text or typed output that grows; see `Runner.run_stream`.

    `start` starts the run, when the block is entered; `output_type` says what its output is validated as.
    """

    def __init__(self, start: Callable[[], Awaitable[Run]], output_type: Callable[[], OutputType[_OutputT]]) -> None:
        self._start = start
        self._output_type = output_type
        self._run: Run | None = None

    async def __aenter__(self) -> Self:
        self._type = self._output_type()
        self._run = await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not (await self.run.record()).status.ended:
            await self.run.cancel()
            await self.run.wait()

    @property
    def run(self) -> Run:
        """Returns the run, within the block."""
        if self._run is None:
            raise RuntimeError("use `async with runner.run_stream(…) as stream`")
        return self._run

    async def stream_text(self, *, delta: bool = False) -> AsyncGenerator[str, None]:
        """Yield the text so far each time it changes, as `Run.text_so_far` does, or with `delta=True` only what is new,
        as `Run.text` does. Raises the run's `RunFailed`.
        """
        async for text in self.run.text() if delta else self.run.text_so_far():
            yield text

    async def stream_output(self) -> AsyncGenerator[_OutputT, None]:
        """Yield the output each time that more of it is valid, the final one last. The longer it is, the more it grows
        from one to the next. Raises the run's `RunFailed`, or `OutputInvalid`.
        """
        growing = GrowingOutput(self._type)
        async for event in self.run.events():
            if growing.add(event):
                yield growing.values[0]
        output = await self.get_output()
        if growing.values != [output]:
            yield output

    async def get_output(self) -> _OutputT:
        """Wait for the final output and return it. Raises the run's `RunFailed`, or `OutputInvalid`."""
        response = await self.run.collect()
        if response.cancelled:
            cancelled = RunCancelled("the run was cancelled before its output", run_id=self.run.id)
            cancelled.text = response.text
            raise cancelled
        result = response.result
        try:
            if result is None and self._type.type is not str and response.text:
                result = decode_json(response.text)  # an agent that writes its output as text
            return self._type.validate(response.text if result is None else result)
        except ValueError as error:
            invalid = OutputInvalid(f"the output is not a valid {self._type.name}: {error}", run_id=self.run.id)
            invalid.text = response.text
            raise invalid from error

    stream = stream_output
    """The old name."""
    get_data = get_output
    """The old name."""
