"""What a step returns: the same wherever its run is, as JSON carries it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest

import gapless
from gapless import Runner
from gapless.agents.base import RunContext
from gapless.agents.functions import FunctionAgent
from gapless.errors import AgentInvalid
from gapless.journals.memory import Memory, MemoryStore

WHERE = ["shared", "alone", "deps"]
"""Runs that can go on at another worker; those of a store in memory; those with something of one process."""


@dataclasses.dataclass
class Place:
    name: str
    floor: int = 1


class Seat(msgspec.Struct):
    row: int


class Trip(pydantic.BaseModel):
    to: str
    on: datetime.date = datetime.date(2026, 12, 1)
    changes: list[str] = pydantic.Field(default=[], alias="changesAt")
    model_config = pydantic.ConfigDict(strict=True, populate_by_name=True)


class Named(pydantic.BaseModel):
    read: int = pydantic.Field(validation_alias="readAs", serialization_alias="writtenAs")

    @pydantic.computed_field
    def twice(self) -> int:
        return 2 * self.read


@dataclasses.dataclass
class Booked:
    trip: Trip


class Own:
    pass


class Pair(NamedTuple):
    left: int
    right: int


async def returned(where: str, function: Callable[[], Any], as_type: Any = Any) -> Any:
    """What a step comes back as in a run that is there."""
    found: list[Any] = []

    @gapless.replays
    async def agent(ctx: RunContext) -> str:
        found.append(await ctx.step("look", function, type=as_type))
        return "done"

    store = MemoryStore(Memory()) if where == "shared" else "memory://"
    async with Runner(agent, store=store) as runner:
        run = await runner.start("x", deps="connection" if where == "deps" else None)
        assert (await run.collect()).text == "done"
    return found[0]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    ("value", "as_type", "comes_back"),
    [
        ((1, 2), Any, [1, 2]),
        ({1: "x"}, Any, {"1": "x"}),
        (Place("hall"), Any, {"name": "hall", "floor": 1}),
        (Seat(3), Any, {"row": 3}),
        (Trip(to="Bern"), Any, {"to": "Bern", "on": "2026-12-01", "changes": []}),
        (None, Any, None),
        ((1, 2), tuple[int, int], (1, 2)),
        ((1, 2), Pair, Pair(1, 2)),
        ({1: "x"}, dict[int, str], {1: "x"}),
        ({"name": "hall"}, Place, Place("hall")),
        ({"row": 3}, Seat, Seat(3)),
        (Trip(to="Bern", changesAt=["Olten"]), Trip, Trip(to="Bern", changesAt=["Olten"])),
        ({"to": "Bern", "on": "2026-12-02"}, Trip, Trip(to="Bern", on=datetime.date(2026, 12, 2))),
        ([Trip(to="Bern")], list[Trip], [Trip(to="Bern")]),
        ({"there": Trip(to="Bern")}, dict[str, Trip], {"there": Trip(to="Bern")}),
        (Trip(to="Bern"), Trip | None, Trip(to="Bern")),
        (None, Trip | None, None),
        (Booked(Trip(to="Bern")), Booked, Booked(Trip(to="Bern"))),
        (Named.model_validate({"readAs": 1}), Named, Named.model_validate({"readAs": 1})),
    ],
)
async def test_a_step_comes_back_as_its_type_wherever_its_run_is(where: str, value: Any, as_type: Any, comes_back: Any):
    found = await returned(where, lambda: value, as_type)
    assert found == comes_back
    assert type(found) is type(comes_back)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    ("value", "as_type", "why"),
    [
        (object(), Any, r"step look returned is no JSON: .*dataclasses.*Pydantic models.*model_dump"),
        ({"floor": "secret"}, Place, r"step look returned is no Place: .*floor"),
        ({"on": "secret"}, Trip, r"step look returned is no Trip: .*to"),
        (7, list[Trip], r"step look returned is no list\[.*Trip\]: "),
        (7, Own, r"step look returned cannot come back as Own: .*Pydantic models"),
    ],
)
async def test_what_cannot_come_back_is_refused_wherever_its_run_is(where: str, value: Any, as_type: Any, why: str):
    with pytest.raises(AgentInvalid, match=why) as raised:
        await returned(where, lambda: value, as_type)
    assert "secret" not in str(raised.value)


async def test_a_function_that_is_called_by_another_leaves_it_what_it_remembers():
    """The inner one has no steps of its own in a run that goes on: those of the outer one are remembered."""

    @gapless.replays
    async def inner(ctx: RunContext) -> str:
        return str(await ctx.step("look", lambda: (1, 2)))

    @gapless.replays
    async def outer(ctx: RunContext) -> str:
        said = [item async for item in FunctionAgent(inner).run(ctx)]
        return f"{said} {await ctx.step('look', lambda: (3,))}"

    for store in (MemoryStore(Memory()), "memory://"):
        async with Runner(outer, store=store) as runner:
            assert (await (await runner.start("x")).collect()).text == "['[1, 2]'] [3]"
