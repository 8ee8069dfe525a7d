"""What an operator says of a server, told at once where it could never be met: by the name under which it was said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from gapless.errors import UsageError

__all__ = ["FAMILIES", "check_families", "check_hosts", "check_origins", "check_prefix"]

FAMILIES = ("ag-ui", "vercel", "openai", "text")
"""Clients whose runs may be cancelled when they hang up."""
_HOST = re.compile(r"\*|\[[0-9a-f:.]+\]|[a-z0-9._-]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


def check_origins(name: str, origins: Iterable[str]) -> None:
    """Refuse an origin that no browser sends (RFC 6454, section 6.1): one without a scheme, or with a path. `*` is any
    and `null` a page's that has none. Raises `UsageError`."""
    for origin in origins:
        if origin in ("*", "null") or _ORIGIN.fullmatch(origin):
            continue
        parts = urlsplit(origin if "://" in origin else f"https://{origin}")
        meant = f"{parts.scheme}://{parts.netloc.lower()}"
        example = meant if _ORIGIN.fullmatch(meant) else "https://app.example.com"
        raise UsageError(f"{name} {origin!r}: browsers send an origin as {example}, with a scheme and without a path")


def check_hosts(name: str, hosts: Iterable[str]) -> None:
    """Refuse a name that stands in no request's Host: a URL, or one with a port. `*` is any. Raises `UsageError`."""
    for host in hosts:
        if not _HOST.fullmatch(host.lower()):
            raise UsageError(
                f"{name} {host!r}: write a name alone, as agents.example.com, or an address, one of IPv6 in brackets"
            )


def check_prefix(name: str, prefix: str) -> None:
    """Refuse a path under which nothing could be asked for. Raises `UsageError`."""
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise UsageError(f"{name} {prefix!r}: write it as /agents, with a slash before it and none behind")


def check_families(name: str, families: Iterable[str]) -> None:
    """Refuse families of clients that there are not. Raises `UsageError`."""
    if unknown := sorted({*families} - {*FAMILIES}):
        raise UsageError(f"{name}: no family of clients {', '.join(unknown)}; one of {', '.join(FAMILIES)}")
