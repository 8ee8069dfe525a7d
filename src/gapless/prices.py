"""What runs cost, by the prices of PyPI's `genai-prices` (the extra `prices`)."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterable

from gapless.records import ModelUsage

__all__ = ["cost_usd"]


def cost_usd(usage: Iterable[ModelUsage]) -> float | None:
    """Return what the tokens cost, in US dollars at list prices; None where a model's price is not known, as where the
    package is not installed."""
    if not _installed():
        return None
    total = 0.0
    for one in usage:
        price = _price(one)
        if price is None:
            return None
        total += price
    return total


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("genai_prices") is not None


def _price(usage: ModelUsage) -> float | None:
    from genai_prices import Usage, calc_price

    tokens = Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens or None,
        cache_write_tokens=usage.cache_write_input_tokens or None,
    )
    for provider in (usage.provider, None):  # a framework's name of it may be another than the list's
        with contextlib.suppress(LookupError, ValueError):
            return float(calc_price(tokens, usage.model or "", provider_id=provider).total_price)
    return None
