"""A `.gguf` model in this process, by llama.cpp (`pip install 'gapless[local]'`).

llama.cpp's own HTTP server runs in threads of this process, on a loopback port with a random key. Its slots batch
several runs together, and a closed connection is what stops a generation: the library's callback interface has no way
to do that while it reads the prompt.

llama.cpp is silent unless the logger `gapless.agents.local` is at DEBUG when the model is loaded; its messages (sizes,
timings, never text) then go to standard error.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import logging
import os
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

import httpx2
import msgspec

from gapless.agents.base import Agent, AgentItem, RunContext
from gapless.agents.embedded import SAMPLING, WEIGHTS_FILE, find_model
from gapless.agents.endpoint_http import Refused, Service, cut, read_body
from gapless.agents.openai_chat import OpenAIChat
from gapless.agents.writing import notice
from gapless.config import StreamingMode
from gapless.errors import AgentFailed, ExtraMissing, InputInvalid, InputTooLarge, ModelFailed, ModelMissing
from gapless.events import (
    AssistantMessage,
    DeveloperMessage,
    Message,
    SystemMessage,
    TextPart,
    UserMessage,
    text_of,
)

__all__ = ["LocalModel", "embedded_model"]
from gapless.settings import SETTINGS_DEPTH_MAX, walk

logger = logging.getLogger(__name__)

SLOTS = 4
"""Runs that generate at once; more wait their turn inside llama.cpp."""
WINDOW_TOKENS = 2048
"""Context of one slot, prompt and answer together. The embedded model keeps 23 KB per token: 188 MB for all slots."""
ANSWER_TOKENS = 512
"""An answer's bound where `max_tokens` is not set (-1: none): small models go round in circles after it."""
PROMPT_BATCH_TOKENS = 64
"""Prompt tokens between two looks at the connection: about 0.3 s of one core, which bounds how late a cancel acts."""
HTTP_THREADS = 64
"""Connections that the server serves at once, waiting runs included; later ones wait to be accepted."""
LOG_LEVEL_SILENT, LOG_LEVEL_INFO = -1, 3

NATIVE_BYTES_MAX = 64 * 1024
"""JSON of `grammar`, `response_format` or `json_schema`: llama.cpp holds each token against the rules made of it."""
NATIVE_GROUPS_MAX = 1000
"""Opening parentheses in one text of these, a grammar or a pattern. llama.cpp reads groups by recursion, at most 400
bytes of stack each, and a stack that is used up ends the process; the smallest that a thread has is 512 KiB."""

ChatMessage: TypeAlias = dict[str, str]
_T = TypeVar("_T")


class LocalModel(Agent):
    """Runs the `.gguf` file at `path` as an agent, `name`.

    The file is loaded at the first run (or by `load`), once per process however many agents and event loops use it.
    `RunConfig.model_settings` goes to llama.cpp's chat endpoint as it is: `temperature`, `max_tokens`, `seed`, `top_p`,
    `stop`, `response_format` and so on; what it does not say is as `sampling` has it. Raises `ModelMissing` if there
    is no such file and `ModelFailed` if it is not GGUF.
    """

    continues = "anew"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        sampling: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.path = Path(path).expanduser().resolve()
        self.name = name or self.path.stem
        self._sampling = dict(sampling)
        try:
            with self.path.open("rb") as file:
                magic = file.read(4)
        except FileNotFoundError:
            raise ModelMissing(
                f"There is no model file {self.path}. Check the path; `gapless model install` fetches a small one."
            ) from None
        except OSError as error:
            raise ModelFailed(f"Cannot read the model file {self.path}: {error.strerror}.") from error
        if magic != b"GGUF":
            raise ModelFailed(f"{self.path} is not a GGUF model: it does not start with the bytes GGUF.")

    async def load(self) -> None:
        """Load the model now rather than at the first run. Raises `ExtraMissing` or `ModelFailed`."""
        await asyncio.to_thread(_acquire, self)

    async def aclose(self) -> None:
        """Unload the model unless another agent of this process uses it. A later run loads it again."""
        await asyncio.to_thread(_release, self)

    async def run(self, ctx: RunContext) -> AsyncIterator[AgentItem]:
        """Stream the answer to `ctx.messages`, oldest turns dropped where they do not fit the model's window.

        Ends with a `gapless.finish` event whose value is `{"reason": "stop"}` or `{"reason": "length"}`. With a
        `response_format` the parsed answer is `ctx.result`. Raises `InputTooLarge` for a message over the window,
        `InputInvalid` for settings that llama.cpp refuses, `OutputInvalid` for JSON cut short, else `ModelFailed`.
        """
        server = await asyncio.to_thread(_acquire, self)
        # `aclosing`: a run that is left in the middle stops its generation now, not when the garbage is collected.
        async with aclosing(self._answer(ctx, server)) as answer:
            try:
                async for item in answer:
                    yield item
            except AgentFailed as error:
                raise ModelFailed(
                    f"The model {self.name} stopped answering: {error.message}", run_id=ctx.run_id
                ) from error
            except InputInvalid as error:
                if not isinstance(error.__cause__, Refused):
                    raise
                raise InputInvalid(
                    f"{error.message.rstrip('. ')}. Check the run's model_settings.", run_id=ctx.run_id
                ) from error

    async def _answer(self, ctx: RunContext, server: _Server) -> AsyncGenerator[AgentItem, None]:
        _check_native(ctx.config.model_settings, ctx.run_id)
        if any(_has_media(message) for message in ctx.messages):
            yield notice("media_ignored", f"{self.name} reads text only: images and files were left out.")
        asked = ctx.config.model_settings.get("max_tokens")
        # llama.cpp takes -1 for "no bound".
        wanted = asked if isinstance(asked, int) and asked > 0 else ANSWER_TOKENS
        reserved = min(wanted, server.window_tokens // 2)
        chat, dropped = await _fit(server.service, ctx, server.window_tokens - reserved)
        if dropped:
            yield notice(
                "history_truncated",
                f"The conversation is longer than the model's window of {server.window_tokens} tokens: "
                f"its {dropped} oldest messages were left out.",
            )
        request = (
            {"max_tokens": ANSWER_TOKENS}
            | self._sampling
            | ctx.config.model_settings
            | {
                "model": self.name,
                "messages": chat,
                # A line per prompt batch. Writing it is how llama.cpp notices at once that we are gone; otherwise it
                # looks only after a second in which no slot produced anything, which never comes while others stream.
                "return_progress": True,
            }
        )
        held: list[str] | None = [] if ctx.config.streaming_mode is StreamingMode.NONE else None
        # Streamed in either mode: llama.cpp sees at once when we are gone.
        async with aclosing(
            OpenAIChat(server.service, self.name, provider="local").ask(ctx, request, stream=True)
        ) as items:
            async for item in items:
                if held is not None and isinstance(item, str):
                    held.append(item)
                    continue
                if held:
                    yield "".join(held)
                    held.clear()
                yield item


def _check_native(settings: Mapping[str, Any], run_id: str) -> None:
    """Refuse what llama.cpp would read by recursion without bound. Raises `InputInvalid`."""
    for name in ("grammar", "json_schema", "response_format"):
        for value, depth in walk(settings.get(name), 1):
            if depth > SETTINGS_DEPTH_MAX:
                raise InputInvalid(f"{name} has more than {SETTINGS_DEPTH_MAX} levels", run_id=run_id)
            if isinstance(value, str) and value.count("(") > NATIVE_GROUPS_MAX:
                raise InputInvalid(f"{name} has more than {NATIVE_GROUPS_MAX} groups in one text", run_id=run_id)
        if len(msgspec.json.encode(settings.get(name))) > NATIVE_BYTES_MAX:
            raise InputInvalid(f"{name} is over {NATIVE_BYTES_MAX} bytes as JSON", run_id=run_id)


def embedded_model() -> LocalModel:
    """Return the agent used when none is named. Raises `ModelMissing`, which says how to install it."""
    path = find_model()
    if path is None:
        runtime = importlib.util.find_spec("xllamacpp") is not None
        steps = "" if runtime else "`pip install 'gapless[local]'` and "
        raise ModelMissing(
            f"No model is installed: run {steps}`gapless model install` (93 MB, once), or name an agent."
        )
    return LocalModel(path, sampling=SAMPLING if path.name == WEIGHTS_FILE else {})


# ------------------------------------------------------------------------------------------------------- the history


async def _fit(service: Service, ctx: RunContext, budget_tokens: int) -> tuple[list[ChatMessage], int]:
    """Return the chat as it is sent, and how many of the oldest messages it lacks. Instructions are never dropped."""
    if not ctx.message.strip():
        raise InputInvalid("There is no text in this message to answer.", run_id=ctx.run_id)
    said = [chat for message in ctx.messages if (chat := _chat_message(message)) is not None]
    instructions = [chat for chat in said if chat["role"] == "system"]
    turns: list[list[ChatMessage]] = []
    for chat in said:
        if chat["role"] == "system":
            continue
        if chat["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(chat)

    def without(dropped: int) -> list[ChatMessage]:
        return _joined([*instructions, *itertools.chain.from_iterable(turns[dropped:])])

    # Bisection for the fewest turns to drop, trying none first: a chat template may count as it likes.
    low, high, probe = 0, len(turns), 0
    while low < high:
        tokens = await _count(service, without(probe), ctx.run_id)
        if tokens <= budget_tokens:
            high = probe
        else:
            low = probe + 1
        probe = (low + high) // 2
    if low == len(turns):
        raise InputTooLarge(
            f"The message alone is {tokens} tokens long; the model takes {budget_tokens} beside its answer. "
            "Shorten the message or lower max_tokens.",
            run_id=ctx.run_id,
        )
    return without(low), sum(map(len, turns[:low]))


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: list[int]


async def _count(service: Service, chat: list[ChatMessage], run_id: str) -> int:
    """Count the tokens of the prompt that the model's own template makes of `chat`."""
    prompt = (await _post(service, "/apply-template", {"messages": chat}, _Prompt, run_id)).prompt
    body = {"content": prompt, "add_special": True, "parse_special": True}
    return len((await _post(service, "/tokenize", body, _Tokens, run_id)).tokens)


async def _post(service: Service, path: str, body: Any, answer: type[_T], run_id: str) -> _T:
    async with service.request("POST", service.url.join(path), body, run_id=run_id) as response:
        try:
            return msgspec.json.decode(await read_body(response), type=answer)
        except httpx2.HTTPError as error:
            raise cut(service.host, run_id, type(error).__name__) from error


def _chat_message(message: Message) -> ChatMessage | None:
    """Return what the model is shown of a message: text by one of three roles. Tool calls and reasoning mean nothing to
    it.
    """
    match message:
        case UserMessage():
            role = "user"
        case AssistantMessage():
            role = "assistant"
        case SystemMessage() | DeveloperMessage():
            role = "system"
        case _:
            return None
    content = text_of(message.content)
    return {"role": role, "content": content} if content else None


def _joined(chat: list[ChatMessage]) -> list[ChatMessage]:
    """Neighbours of one role made one message: after a run that failed, or many templates refuse the chat."""
    joined: list[ChatMessage] = []
    for role, messages in itertools.groupby(chat, key=lambda message: message["role"]):
        joined.append({"role": role, "content": "\n\n".join(message["content"] for message in messages)})
    return joined


def _has_media(message: Message) -> bool:
    content = message.content if isinstance(message, UserMessage) else ""
    return any(not isinstance(part, TextPart) for part in content if not isinstance(part, str))


# -------------------------------------------------------------------------------------------------- the loaded model


class _GenerationSettings(msgspec.Struct):
    n_ctx: int


class _Props(msgspec.Struct):
    default_generation_settings: _GenerationSettings


@dataclass(eq=False)
class _Server:
    """llama.cpp with one model in this process. `native` is the library's object; it stops when it is let go."""

    native: Any
    service: Service
    window_tokens: int
    users: set[LocalModel] = field(default_factory=set)


_servers: dict[Path, _Server] = {}
_servers_lock = threading.Lock()
"""Held while a model loads or unloads, which takes seconds: taken in worker threads only."""


def _acquire(user: LocalModel) -> _Server:
    server = _servers.get(user.path)
    if server is not None and user in server.users:
        return server
    with _servers_lock:
        server = _servers.get(user.path)
        if server is None:
            server = _servers[user.path] = _start(user.path)
        server.users.add(user)
        return server


def _release(user: LocalModel) -> None:
    with _servers_lock:
        server = _servers.get(user.path)
        if server is None:
            return
        server.users.discard(user)
        if not server.users:
            del _servers[user.path]
            server.native = None


def _start(path: Path) -> _Server:
    try:
        xllamacpp = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ExtraMissing(f"Running {path.name} takes llama.cpp: pip install 'gapless[local]'") from error
    key = secrets.token_urlsafe(32)
    # All cores would be faster alone, but llama.cpp's threads wait for each other: one busy neighbour costs 60 to 90 %.
    threads = max(1, (os.cpu_count() or 1) - 1)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.n_threads_http = HTTP_THREADS
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * WINDOW_TOKENS
    params.n_batch = params.n_ubatch = PROMPT_BATCH_TOKENS
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = LOG_LEVEL_INFO if logger.isEnabledFor(logging.DEBUG) else LOG_LEVEL_SILENT
    try:
        native = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelFailed(
            f"llama.cpp cannot load {path}: the file is cut short or damaged, or too new for this llama.cpp. "
            f"Fetch it again; logger {__name__} at DEBUG shows what llama.cpp says."
        ) from error
    url = native.listening_address
    props = httpx2.get(f"{url}/props", headers={"Authorization": f"Bearer {key}"}, trust_env=False, verify=False)
    window_tokens = msgspec.json.decode(props.content, type=_Props).default_generation_settings.n_ctx
    return _Server(native, Service(httpx2.URL(url), name="llama.cpp", key=key), window_tokens)
