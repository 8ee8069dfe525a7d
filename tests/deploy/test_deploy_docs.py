"""The tables of docs/deploy.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from gapless import ConnectionLimits, Limits
from gapless.metrics import Metrics

TEXT = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()


def test_the_table_of_limits():
    written = re.findall(r"^\| `(\w+_(?:max|s))` \| (\w+) \|", TEXT, re.M)
    actual = [
        (field.name, "none" if field.default is None else str(field.default))
        for kind in (Limits, ConnectionLimits)
        for field in msgspec.structs.fields(kind)
    ]
    assert written == actual


def test_the_table_of_metrics():
    written = set(re.findall(r"^\| `(gapless_\w+?)(?:_total)?(?:\{[\w,]+\})?` \|", TEXT, re.M))
    exposition, _ = Metrics().exposition()
    assert written == {family.name for family in text_string_to_metric_families(exposition.decode())}
