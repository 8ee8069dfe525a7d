"""An agent of one's own, as `test_my_agent.py` tests it: a Pydantic AI agent with a tool and its dependencies."""

from dataclasses import dataclass

from pydantic_ai import Agent, RunContext

from gapless.agents.pydantic_ai import PydanticAIAgent


@dataclass
class Shop:
    """What a run is given: `runner.start(message, deps=Shop(...))`."""

    stock: dict[str, int]


shop_agent = Agent(
    "google:gemini-2.5-flash",
    deps_type=Shop,
    instructions="You sell lamps. Look up the stock before you promise anything.",
    defer_model_check=True,  # so that no key is needed to import it
)


@shop_agent.tool
def in_stock(ctx: RunContext[Shop], item: str) -> int:
    """How many of an item there are."""
    return ctx.deps.stock.get(item, 0)


STOCKS = {"north": {"lamp": 3}, "south": {"lamp": 0}}
served = PydanticAIAgent(shop_agent, name="shop", deps=lambda run: Shop(stock=STOCKS.get(run.user_id, {})))
