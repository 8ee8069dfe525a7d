"""What an operator says of a server that could never be met is refused when it is made."""

from __future__ import annotations

import pytest

from gapless import Runner, create_app
from gapless.errors import UsageError
from gapless.server.checks import check_hosts, check_origins

GOOD_ORIGINS = [
    "*",
    "null",
    "https://app.example.com",
    "http://localhost:3000",
    "http://[::1]:8000",
    "capacitor://localhost",
]


@pytest.mark.parametrize("origin", GOOD_ORIGINS)
def test_what_a_browser_sends_as_its_origin_is_taken(origin: str):
    check_origins("cors_origins", [origin])


@pytest.mark.parametrize(
    ("origin", "meant"),
    [
        ("app.example.com", "https://app.example.com"),
        ("https://app.example.com/", "https://app.example.com"),
        ("https://App.example.com/page?x", "https://app.example.com"),
        ("not an origin", "https://app.example.com"),
        ("", "https://app.example.com"),
    ],
)
def test_another_origin_is_refused_with_how_it_is_written(origin: str, meant: str):
    with pytest.raises(UsageError) as caught:
        create_app(Runner(lambda message: message), cors_origins=[origin])
    assert caught.value.message.startswith(f"cors_origins {origin!r}: browsers send an origin as {meant},")


@pytest.mark.parametrize(
    "host", ["*", "localhost", "agents.example.com", "Agents.example.com", "127.0.0.1", "[::1]", "a_b"]
)
def test_what_stands_in_a_host_header_is_taken(host: str):
    check_hosts("allowed_hosts", [host])


@pytest.mark.parametrize("host", ["", "http://x/", "x.example:8000", "::1", "a b", "*.example.com"])
def test_another_host_is_refused(host: str):
    with pytest.raises(UsageError, match=r"allowed_hosts .*write a name alone"):
        create_app(Runner(lambda message: message), allowed_hosts=[host])
