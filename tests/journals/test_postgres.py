"""The store in PostgreSQL, on a real server: the suite of every store, and what servers and networks can do."""

from __future__ import annotations

import pytest

from tests.journals.conformance import Conformance, conforms_in_any_order
from tests.journals.postgres_place import DatabasePlace
from tests.support.postgres import Postgres


class TestPostgresStore(Conformance):
    @pytest.fixture
    def place(self, postgres: Postgres) -> DatabasePlace:
        return DatabasePlace(postgres)


def test_conforms_in_any_order(postgres: Postgres) -> None:
    conforms_in_any_order(lambda: DatabasePlace(postgres), examples=40)
