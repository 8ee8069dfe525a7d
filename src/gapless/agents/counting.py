"""What was used beside what was counted: by agents inside of tools, whose framework tells the whole alone."""

from __future__ import annotations

from collections.abc import Sequence

from gapless.events import TokenUsage

__all__ = ["rest_of"]

_FIELDS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_input_tokens")


def rest_of(total: TokenUsage, counted: Sequence[TokenUsage]) -> TokenUsage | None:
    """Return what is in `total` and in none of the `counted`; None where that is nothing. It is of `total`'s model."""
    left = {name: _tokens(total, name) - sum(_tokens(one, name) for one in counted) for name in _FIELDS}
    tokens_in, tokens_out = max(left["input_tokens"], 0), max(left["output_tokens"], 0)
    if not tokens_in + tokens_out:
        return None
    return TokenUsage(
        provider=total.provider,
        model=total.model,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        total_tokens=tokens_in + tokens_out,
        cached_input_tokens=max(left["cached_input_tokens"], 0) or None,
        cache_write_input_tokens=max(left["cache_write_input_tokens"], 0) or None,
    )


def _tokens(usage: TokenUsage, name: str) -> int:
    return getattr(usage, name) or 0
