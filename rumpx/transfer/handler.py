"""The protocols where a worker's work plugs in, and the data that passes through them.

    Spec ─build─▶ Handler ─▶ Reader: Wanted in, Read out
                          ─▶ Writer: Records in, Written out

A worker knows only `Spec` and `Handler`. A handler knows `Reader` and `Writer`, and reaches no
connection through them. Both are one side (`Reachable`) whose nodes may fail, move slots or be
replaced; they retry nothing themselves, but return in `Again` the keys to ask for again.

`Reader.read` and `Writer.write` carry each value whole; values in pieces pass through `stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, Self

from rumpx.errors import RumpxError
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address
from rumpx.model.job import Scope
from rumpx.model.results import KeyFailure, KeyLoss
from rumpx.servers.dial import Dialer
from rumpx.throttle.rates import Pacer
from rumpx.transfer.content_stats import NO_KINDS, Kinds, Large
from rumpx.transfer.messages import Ack, Batch, Left, Streaming
from rumpx.transfer.runner import Budget, Task
from rumpx.transfer.suspects import Lost


class Handler(Protocol):
    """Settles batches in a worker; `Transfer` copies them."""

    def dial(self, databases: Sequence[int]) -> None:
        """Open the connections that are certainly needed."""

    def settle(self, batch: Batch) -> Task[Ack | Left]:
        """Settle each of a batch's keys, unless the run ends; a task."""

    def unfinished(self) -> dict[int, Counts]:
        """Return the counts so far of each batch that was started and not settled."""

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""

    def take_streaming(self) -> Streaming | None:
        """Return the progress of a large value, if it is time to show it."""

    def close(self) -> None:
        """Close all connections; others are opened when they are needed."""


class Spec(Protocol):
    """A worker's settings, sent once when it starts."""

    @property
    def databases(self) -> tuple[int, ...]:
        """The source's databases that hold keys."""

    @property
    def bytes_in_flight(self) -> int:
        """The byte budget of this worker."""

    @property
    def beside_server(self) -> bool:
        """True if a server is on this machine, and has priority over workers."""

    @property
    def scope(self) -> Scope:
        """The keys to copy, and the target's databases."""

    def at(self, place: Callable[[Dialer], Dialer]) -> Self:
        """Return the same for another machine: with other dialers."""

    @property
    def dialers(self) -> tuple[Dialer, Dialer]:
        """Those of the source and the target."""

    def writing_as(self, writer: str, lives: Callable[[], bool]) -> Self:
        """Return the same for one worker: the name of its connections to the target, and whether
        its coordinator lives; see `Dialer`."""

    def build(self, budget: Budget, pacer: Pacer) -> Handler:
        """Return the handler of a worker with this budget and these rates."""


class Reachable(Protocol):
    """One side, whose nodes may be out of reach for a while, move slots, or be replaced."""

    def refresh(self) -> None:
        """Read the topology again after trouble."""

    def trouble(self, node: Address | None, since: float) -> str | None:
        """Return why a node does not answer on a new connection; "" if it does, or has since a
        time of `time.monotonic()`; None if it is no longer one of this side's nodes."""


class Reader(Reachable, Protocol):
    """Reads keys."""

    @property
    def exact(self) -> bool:
        """True if expiries are the server's own instants; else they are computed."""

    @property
    def tells_sizes(self) -> bool:
        """True if `sizes` asks the server at all."""

    def ops(self, keys: int, *, sized: bool) -> int:
        """Return how many commands the server executes for that many keys; `sized`: with those for
        their sizes, if it is asked at all."""

    def dial(self, databases: Sequence[int]) -> None:
        """Open the connections that are certainly needed.

        Raises:
            SourceUnusable, TargetUnusable: a login or SELECT is refused.
        """

    def largest(self, wanted: Wanted) -> Task[int | None]:
        """Return how many bytes a payload of `wanted.db` has at most, if the server proves that it
        is small; else None; a task."""

    def sizes(self, wanted: Wanted) -> Task[list[int] | None]:
        """Return the estimated bytes of each key's payload, None if unknown; a task."""

    def read(self, wanted: Wanted, sizes: Sequence[int] | None) -> Task[Read]:
        """Read keys once; `sizes` are their estimated bytes, if known; a task.

        Raises:
            SourceUnusable, TargetUnusable: a reply that every key would get.
        """

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""

    def close(self) -> None:
        """Close all connections; others are opened when they are needed."""


class Writer(Reachable, Protocol):
    """Writes keys."""

    @property
    def late_ms(self) -> int:
        """The most by which an expiry written so far may be later than it was read, in ms."""

    @property
    def unended(self) -> bool:
        """True if the server did not end a lost connection, so that a write may come late."""

    def dial(self, databases: Sequence[int]) -> None:
        """Open the connections that are certainly needed.

        Raises:
            TargetUnusable: a login or SELECT is refused.
        """

    def write(self, records: Records) -> Task[Written]:
        """Write records once; a task."""

    def delete(self, db: int, keys: list[bytes], result: Written) -> Task[None]:
        """Delete keys from the target's database once, adding to the result; a task."""

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""

    def close(self) -> None:
        """Close all connections; others are opened when they are needed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Keys to read. `ask` names nodes to ask a key of after ASKING; `single` keys are read
    without MULTI; `node` is the node to ask, or with `by_slot` the node that serves each key now,
    where keys may have moved; only the server's `process` can prove that a key is gone ("": any
    can)."""

    db: int
    keys: list[bytes]
    node: Address | None
    by_slot: bool = False
    ask: dict[bytes, Address] = field(default_factory=dict)
    single: frozenset[bytes] = frozenset()
    process: str = ""


@dataclass(slots=True)
class Again:
    """The keys of one try to ask for again.

    `again` keys must be retried, some at another node after ASKING (`ask`); with `waits` only
    after a pause. `complaint` is the last reason. `lost` lists those of them that were in flight
    on a connection that broke.
    """

    again: list[bytes] = field(default_factory=list)
    ask: dict[bytes, Address] = field(default_factory=dict)
    waits: bool = False
    complaint: str = ""
    lost: list[Lost] = field(default_factory=list)

    def repeat(self, keys: Sequence[bytes], complaint: str) -> None:
        """Retry keys after a pause."""
        self.again += keys
        self.waits = True
        self.complaint = complaint

    def end(self, error: RumpxError) -> None:
        """End the run with an error."""
        raise error


@dataclass(slots=True)
class Read(Again):
    """The results for the keys of one `read`.

    `keys`, `payloads` and `expiries` (ms since 1970, or with `left` ms left, or NO_EXPIRY)
    correspond to each other. `single` are those of `again` that must be read without MULTI. `gone`
    keys do not exist; of `unproven` ones another process was asked than the one that was wanted;
    `staging` counts keys that a copy to the source is writing.
    """

    keys: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    expiries: list[int] = field(default_factory=list)
    left: bool = False
    gone: list[bytes] = field(default_factory=list)
    unproven: list[bytes] = field(default_factory=list)
    staging: int = 0
    failures: list[KeyFailure] = field(default_factory=list)
    single: set[bytes] = field(default_factory=set)

    def absent(self, key: bytes, wanted: Wanted, process: str) -> None:
        """Note a key that does not exist on the server that is this process."""
        proven = not wanted.process or process == wanted.process
        (self.gone if proven else self.unproven).append(key)


class Rewrite(NamedTuple):
    """A value whose payload was rewritten for the target: the source's payload, and the loss in the
    target's; "" if there is none."""

    payload: bytes
    loss: str


@dataclass(frozen=True, slots=True)
class Records:
    """Payloads to write into a database; the three lists correspond. `ask` as in Wanted, and
    `left` as in Read; `source_db` is their origin, for messages about them; `whole` values
    cannot go in pieces; `rewrites` are the keys whose payloads are not the source's (`bridge`)."""

    db: int
    source_db: int
    keys: list[bytes]
    payloads: list[bytes]
    expiries: list[int]
    ask: dict[bytes, Address] = field(default_factory=dict)
    left: bool = False
    whole: bool = False
    rewrites: Mapping[bytes, Rewrite] = field(default_factory=dict)

    def chosen(self, positions: Sequence[int]) -> Records:
        """Return the records at some positions."""
        return replace(
            self,
            keys=[self.keys[n] for n in positions],
            payloads=[self.payloads[n] for n in positions],
            expiries=[self.expiries[n] for n in positions],
        )


@dataclass(slots=True)
class Written(Again):
    """The results for the keys of one `write`; `rewritten` and `losses` are among those copied;
    `gone` keys have expired by the target's clock; `deleted` counts keys by `Writer.delete`; `busy`
    keys existed already; values `in_pieces` must be copied so, since no payload holds them.
    With `fatal` the run must end: then some keys are in none of the lists."""

    copied: int = 0
    payload_bytes: int = 0
    kinds: Kinds = NO_KINDS
    large: list[Large] = field(default_factory=list)
    rewritten: int = 0
    losses: list[KeyLoss] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    deleted: int = 0
    busy: list[bytes] = field(default_factory=list)
    in_pieces: list[bytes] = field(default_factory=list)
    failures: list[KeyFailure] = field(default_factory=list)
    fatal: RumpxError | None = None

    def end(self, error: RumpxError) -> None:
        """End the run with an error, once the keys that the target did take are counted."""
        self.fatal = self.fatal or error
