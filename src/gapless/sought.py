"""What runs are to be found by, and what was found."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gapless.records import ACTIVE, Listing, RunRecord, RunStatus, decode_run

__all__ = ["FAILED", "Found", "Glimpse", "Sought", "glimpse_of"]

FAILED = frozenset({RunStatus.FAILED, RunStatus.CANCELLED})
"""The states of runs that have an error."""


class Glimpse(msgspec.Struct, kw_only=True):
    """Reads of a run's record what runs are found by; the rest is passed over, however long."""

    user_id: str
    session_id: str
    agent: str
    created_at: int
    error: dict[str, str] | None = None


_decode = msgspec.json.Decoder(Glimpse).decode


def glimpse_of(record: bytes) -> Glimpse | RunRecord:
    """Read a run's record, as far as it is found by it. Raises as `decode_run`."""
    try:
        return _decode(record)
    except msgspec.ValidationError:
        return decode_run(record)


class Sought(msgspec.Struct, kw_only=True, frozen=True):
    """What runs are to be found by; None: whatever it is. Times are ms since 1970, of their creation."""

    user_id: str | None = None
    session_id: str | None = None
    status: RunStatus | None = None
    agent: str | None = None
    since: int | None = None
    until: int | None = None
    error: str | None = None
    """In the code or the message of its error, in small or capital letters."""

    def may_be(self, status: str) -> bool:
        """Tell whether more is to be known of a run of this status: whether it is sought, or too old to look on."""
        return self.since is not None or self.status in (None, status)

    @property
    def states(self) -> frozenset[RunStatus] | None:
        """Returns those of which stores have a list, where all that is sought is among them: of runs that have not
        ended, or of runs with an error."""
        if self.status in ACTIVE:
            return ACTIVE
        return FAILED if self.status in FAILED or self.error is not None else None

    @property
    def in_record(self) -> bool:
        """Returns whether more is to be known of a run than its user, session, status and error."""
        return self.agent is not None or self.since is not None or self.until is not None

    def is_among(self, run: RunRecord) -> bool:
        """Tell whether a run is in the shortest list that a store may have of these: its user's, its session's, that of
        runs in these states."""
        return (
            self.user_id in (None, run.user_id)
            and self.session_id in (None, run.session_id)
            and (self.states is None or run.status in self.states)
        )

    def is_of(self, run: RunRecord | Glimpse, status: str) -> bool:
        """Tell whether a run of this status is one of these."""
        for sought, is_so in (
            (self.user_id, run.user_id),
            (self.session_id, run.session_id),
            (self.status, status),
            (self.agent, run.agent),
        ):
            if sought is not None and sought != is_so:
                return False
        if self.until is not None and run.created_at > self.until:
            return False
        if self.since is not None and run.created_at < self.since:
            return False
        return self.error is None or self.error.casefold() in " ".join((run.error or {}).values()).casefold()


class Found(Listing[RunRecord]):
    """Holds one page of runs that were sought: it may have fewer than were asked for, or none, and a `next` all the
    same. So many runs were `looked` at for it, and about `left` are behind them."""

    def __init__(self, records: Iterable[RunRecord] = (), next: str | None = None, *, looked: int = 0) -> None:
        super().__init__(records, next)
        self.looked = looked
        self.left = 0 if next is None else max(0, int(next) - 1)
