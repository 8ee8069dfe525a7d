"""A Valkey Cluster of several real nodes on this machine, whose masters can be killed."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Self

import redis

from tests.support.valkey import Valkey

SLOTS = 16384
NODE_TIMEOUT_MS, DEATH_TIMEOUT_MS = 60_000, 1000
"""After which the others take a node for dead and its replica stands for election; and once one is killed. None that
only stands still for a moment is taken for dead before."""
READY_S_MAX = 120.0


class ValkeyCluster:
    """So many masters, with a replica each unless told otherwise."""

    def __init__(self, masters: int = 3, *, replicas: bool = True) -> None:
        config = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            "cluster-replica-validity-factor": 0,
            "repl-diskless-sync-delay": 0,
        }
        self.masters = masters
        self.servers = [Valkey(config=config) for _ in range(masters * (1 + replicas))]

    def __enter__(self) -> Self:
        for server in self.servers:
            server.start()
        first, *rest = map(self.connection, self.servers)
        host, port = "127.0.0.1", self.servers[0].port
        for node in rest:
            bus_port = int(first.config_get("cluster-port")["cluster-port"])
            node.execute_command("CLUSTER", "MEET", host, port, bus_port)
        nodes = [first, *rest]
        bounds = [SLOTS * number // self.masters for number in range(self.masters + 1)]
        for node, start, end in zip(nodes, bounds, bounds[1:], strict=False):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        self._until(lambda: all(_info(node)["cluster_known_nodes"] == str(len(nodes)) for node in nodes))
        for master, replica in zip(nodes, nodes[self.masters :], strict=False):
            replica.execute_command("CLUSTER", "REPLICATE", master.execute_command("CLUSTER", "MYID"))
        self._until(lambda: all(_info(node)["cluster_state"] == "ok" for node in nodes))
        self._until(
            lambda: all(node.info("replication")["master_link_status"] == "up" for node in nodes[self.masters :])
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self.servers:
            with contextlib.suppress(Exception):
                server.stop()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.servers[0].port}/0"

    def connection(self, server: Valkey) -> Any:
        return redis.Redis(port=server.port, decode_responses=True)

    def flush(self) -> None:
        for server in self.servers:
            connection = self.connection(server)
            if connection.info("replication")["role"] == "master":
                connection.flushall()

    def master_of(self, key: str) -> Valkey:
        """The node that has the key's slot now."""
        slot = self.connection(self.servers[0]).execute_command("CLUSTER", "KEYSLOT", key)
        for server in self.servers:
            with contextlib.suppress(redis.ConnectionError):
                nodes = self.connection(server).execute_command("CLUSTER", "SLOTS")
                port = next(entry[2][1] for entry in nodes if entry[0] <= slot <= entry[1])
                return next(server for server in self.servers if server.port == port)
        raise AssertionError("no node answers")

    def kill(self, server: Valkey) -> None:
        for node in self.servers:
            self.connection(node).config_set("cluster-node-timeout", DEATH_TIMEOUT_MS)
        server.kill()

    def _until(self, holds: Any) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while not holds():
            assert time.monotonic() < deadline, "the cluster does not come together"
            time.sleep(0.02)


def _info(node: Any) -> dict[str, str]:
    lines = node.execute_command("CLUSTER", "INFO")
    if isinstance(lines, dict):
        return lines
    return dict(line.split(":", 1) for line in lines.split())
