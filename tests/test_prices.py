"""What runs cost: by the package's list, and nothing of what is not in it."""

from __future__ import annotations

import pytest

from gapless import prices
from gapless.prices import cost_usd
from gapless.records import ModelUsage

KNOWN = ModelUsage(provider="openai", model="gpt-4o", input_tokens=1_000_000, output_tokens=0)


def test_a_known_model_costs_what_the_list_says_whatever_its_provider_is_called() -> None:
    cost = cost_usd([KNOWN])
    assert cost is not None
    assert cost > 0
    assert cost_usd([ModelUsage(provider="a gateway", model="gpt-4o", input_tokens=1_000_000)]) == cost
    assert cost_usd([KNOWN, KNOWN]) == 2 * cost


def test_of_what_is_not_known_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cost_usd([KNOWN, ModelUsage(model="a model of one's own", input_tokens=1)]) is None
    monkeypatch.setattr(prices, "_installed", lambda: False)
    assert cost_usd([KNOWN]) is None
