"""Before the first write: look at both sides, refuse what must not be, and plan the rest.

The order is cheapest first, and everything here only reads (RESTORE is proved by a time to live
that it must refuse):

1. Reach both sides, log in, read the topology and every primary's INFO.
2. Refuse: one replication chain on both sides, a target that is a replica, a source that is one
   without its primary's data, a cluster with slots that nobody serves, a source about to evict,
   clocks too far apart.
3. Find the databases in scope; prove by SELECT that both sides have them.
4. Find out what the source lets us use, and prove that both users may do what a copy needs.
5. A target that holds keys needs a conflict policy.
6. Plan partitions, tuned to the distance of both sides.

These steps are a list, `STEPS`: a copy stops at the first that refuses, a check (`rumpx.checker`)
takes all that it can.

Not promised: that a permission which holds for one key holds for all (ACLs go by key pattern);
those keys fail one by one.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

from rumpx.engine.plan import (
    NodeKeys,
    Partition,
    SamplePage,
    Tuning,
    cursor_is_plausible,
    cursor_scheme,
    plan_partitions,
    tune,
)
from rumpx.engine.scanner import ScanSettings, scanned
from rumpx.engine.worker import Spec, WorkerSpec
from rumpx.errors import (
    ConnectionLost,
    NoReplica,
    RumpxError,
    Side,
    SourceUnusable,
    TargetFull,
    TargetUnusable,
    TemporaryError,
    UsageError,
    unusable,
)
from rumpx.model.job import Address, Endpoint, Job, Scope, format_address
from rumpx.preflight.abilities import (
    SCANS,
    Sample,
    readable_key,
    refuse_command,
    refuses_absttl,
    takes_absttl,
)
from rumpx.servers.answers import ask_number, misshapen
from rumpx.servers.connections import select
from rumpx.servers.dial import Dialer
from rumpx.servers.info import ServerClock, ServerInfo, measure_clock, read_info
from rumpx.servers.redials import Redials
from rumpx.servers.replicas import prove, read_places, read_state
from rumpx.servers.replies import (
    cannot_save,
    explain_refusal,
    is_proxy,
    key_refused,
    proxy_words,
    refused,
)
from rumpx.servers.resp import Command, Connection
from rumpx.servers.tls import flag_of
from rumpx.servers.topology import (
    Node,
    Origin,
    Topology,
    is_error,
    marked,
    read_topology,
    unserved_slots,
)
from rumpx.transfer.dump_reader import (
    Abilities,
    Expiry,
    no_clock,
    no_memory_usage,
    no_multi,
    no_sizes,
)

Policy = Literal["replace", "skip", "fail"]
# A source this full that evicts could be made to evict by our reply buffers.
# Beyond that no value is read to see whether values may be read.
_LARGEST_TRIED: Final = 2**20
_NEARLY_FULL: Final = 0.9
# Versions and encodings take more or less for the same data, but not that much.
_SURELY_TOO_LARGE: Final = 1.5
# Where writes are paused, not even a RESTORE that is refused is answered.
_PROBE_SECONDS: Final = 1.0
_SKEW_WARN_MS: Final = 1_000
_SKEW_REFUSE_MS: Final = 60_000
# Looked into where the server does not list its databases; 16 is the servers' default.
_USUAL_DATABASES: Final = 16
# The number of a database that no server has: they are counted from 0 by numbers of 31 bits.
_NO_DATABASE: Final = 2**31 - 1
NO_ABSTTL: Final = (
    "The target's RESTORE has no ABSTTL (Redis 5.0 has it): expiries are written as times left by "
    "the target's clock, and come out later by the network delay."
)
_SAMPLE_PAGES: Final = 3
# A balancer in turns shows itself at the second of these; one at random mostly at one of them.
_CONNECTIONS_TRIED: Final = 4
# Files that a process has open beside what grows with workers or nodes.
_OTHER_FILES: Final = 96
_SAMPLE_COUNT: Final = 50


@dataclass(frozen=True, slots=True)
class SideFacts:
    """What was found on one side. `infos` has an entry for each node that is read (or written),
    None where INFO is refused; `clock` is of the first of them."""

    dialer: Dialer
    topology: Topology
    infos: dict[Address | None, ServerInfo | None]
    clock: ServerClock

    @property
    def version(self) -> str:
        """The servers' version, for people."""
        found = sorted({str(info) for info in self.infos.values() if info})
        return ", ".join(found) or "a server that hides its version"

    def run_id(self, address: Address | None) -> str:
        """The identity of a server's process; "" if unknown."""
        info = self.infos.get(address)
        return info.identity if info else ""

    def topology_now(self, before: Iterable[Address | None] = ()) -> Topology:
        """The nodes of this moment: a failover may have made others than `topology` has.

        Args:
            before: replicas that are read already; none means those of the start.

        Raises:
            ConnectionLost: no node answers.
            NoReplica: a node has no replica that can be read now.
        """
        if self.dialer.read_from == "primary":
            return self.primaries_now()
        known = self.topology.known if self.topology.cluster else ()
        return read_places(self.dialer, known, before or self.infos)

    def primaries_now(self) -> Topology:
        """The same, but the primaries themselves.

        Raises:
            ConnectionLost: no node answers.
        """
        if not self.topology.cluster:
            return self.topology.primaries()
        return read_topology(self.dialer, self.topology.known)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run needs to begin.

    Attributes:
        sample: a key in scope, if any was seen, with its database.
        databases: (node, database) pairs in scope, with their number of keys.
        on_conflict: what keys that the target has mean.
        scans: how each side that is walked is walked.
        target_keys: keys that the target's databases held before the copy.
        reverse: as `databases`, for the target, where that is walked too.
    """

    job: Job
    source: SideFacts
    target: SideFacts
    databases: tuple[NodeKeys, ...]
    partitions: tuple[Partition, ...]
    tuning: Tuning
    scans: dict[Side, ScanSettings]
    spec: Spec
    on_conflict: Policy
    target_keys: int
    warnings: tuple[str, ...]
    reverse: tuple[NodeKeys, ...] = ()

    @property
    def places(self) -> list[tuple[Side, NodeKeys]]:
        """All that is walked, with its side."""
        forward: list[tuple[Side, NodeKeys]] = [("source", place) for place in self.databases]
        return forward + [("target", place) for place in self.reverse]

    @property
    def keys_expected(self) -> int:
        """Keys in the databases in scope at the start."""
        return sum(place.keys for place in self.databases)

    @property
    def target_databases(self) -> tuple[int, ...]:
        """The target's databases that the copy writes to."""
        return tuple(sorted({self.spec.scope.target_db(place.db) for place in self.databases}))


Ask = Callable[[str], Policy | None]


def prepare(job: Job, ask: Ask | None = None) -> Plan:
    """Look, refuse, plan; see the module docstring.

    Args:
        ask: on a terminal, asks the user what to do with keys that the target has.

    Raises:
        SourceUnusable, TargetUnusable, TemporaryError, UsageError: with what to do about it.
    """
    draft = Draft(job, ask)
    for step in STEPS:
        step.take(draft)
    return draft.plan


class Draft:
    """What the steps have found so far: an attribute is there once its step has been taken."""

    source: SideFacts
    target: SideFacts
    shift: int
    databases: list[NodeKeys]
    scope: Scope
    sample: Sample
    abilities: Abilities
    absttl: bool
    target_keys: int
    policy: Policy
    tuning: Tuning
    plan: Plan

    def __init__(self, job: Job, ask: Ask | None = None) -> None:
        self.job = job
        self.ask = ask
        self.warnings: list[str] = []

    @property
    def replaces(self) -> bool:
        """Whether the copy may write over keys; it may be told so only later."""
        return self.job.on_conflict in ("replace", "ask")

    @property
    def target_databases(self) -> list[int]:
        """Where the copy would write to."""
        return sorted({self.scope.target_db(place.db) for place in self.databases})


@dataclass(frozen=True, slots=True)
class Step:
    """One look before the first write: whoever copies takes all steps and stops at a refusal,
    whoever checks takes all that can be taken and collects what they say.

    Attributes:
        name: for whoever collects.
        needs: what of the Draft it reads.
        take: adds to the Draft; raises what `prepare` raises.
    """

    name: str
    needs: tuple[str, ...]
    take: Callable[[Draft], None]


def _look_at_source(draft: Draft) -> None:
    draft.source = look(draft.job, "source")


def _look_at_target(draft: Draft) -> None:
    draft.target = look(draft.job, "target")


def _compare_clocks(draft: Draft) -> None:
    draft.shift = check_clocks(draft.job, draft.source, draft.target, draft.warnings)


def _look_for_databases(draft: Draft) -> None:
    prove_databases(draft.source, chosen_databases(draft.job))
    draft.databases = find_databases(draft.job, draft.source, draft.warnings)


def _map_databases(draft: Draft) -> None:
    scope = replace(draft.job.scope, map_db=database_map(draft.job, draft.databases))
    refuse_collisions([place.db for place in draft.databases], dict(scope.map_db))
    draft.scope = scope


def _try_reading(draft: Draft) -> None:
    draft.sample = find_sample(draft.source, draft.databases, draft.job.scope)
    draft.abilities = find_abilities(draft.job, draft.source, draft.sample, draft.warnings)


def _try_writing(draft: Draft) -> None:
    draft.absttl = prove_restore(draft.target, draft.sample, replace=draft.replaces)
    if not draft.absttl:
        draft.warnings.append(NO_ABSTTL)


def _check_times(draft: Draft) -> None:
    untold = None in (draft.source.clock.offset, draft.target.clock.offset)
    if draft.abilities.expiry != "left" and untold:
        draft.warnings.append(
            "TIME is refused, so the servers' clocks are not compared: if they differ, expiries "
            "come out wrong by as much."
        )


def _count_target(draft: Draft) -> None:
    draft.target_keys = count_keys(draft.target, draft.target_databases)


def _choose_policy(draft: Draft) -> None:
    draft.policy = conflict_policy(draft.job, draft.target_keys, draft.ask)


def _tune(draft: Draft) -> None:
    job = draft.job
    draft.tuning = tune_to_distance(
        job, draft.source, draft.target, draft.databases, job.partitions
    )


def _plan(draft: Draft) -> None:
    job, source, target, tuning = draft.job, draft.source, draft.target, draft.tuning
    places = with_schemes(source, draft.databases)
    draft.plan = Plan(
        job,
        source,
        target,
        tuple(places),
        tuple(plan_partitions(places, tuning, job.prefixes, forced=job.partitions > 0)),
        tuning,
        {"source": scan_settings(job, source, draft.scope)},
        worker_spec(
            job,
            source,
            target,
            draft.databases,
            draft.scope,
            draft.abilities,
            draft.policy,
            tuning,
            draft.shift,
            absttl=draft.absttl,
        ),
        draft.policy,
        draft.target_keys,
        tuple(draft.warnings),
    )


STEPS: Final = (
    Step("source", (), _look_at_source),
    Step("target", (), _look_at_target),
    Step("open files", ("source", "target"), lambda d: check_open_files(d)),
    Step("source certificate", ("source",), lambda d: warn_of_trust(d.source, d.warnings)),
    Step("target certificate", ("target",), lambda d: warn_of_trust(d.target, d.warnings)),
    Step("identity", ("source", "target"), lambda d: refuse_same_chain(d.source, d.target)),
    Step("role", ("target",), lambda d: refuse_replica(d.target)),
    Step("replication", ("source",), lambda d: check_upstreams(d.source, d.warnings)),
    Step("source slots", ("source",), lambda d: refuse_unserved(d.source)),
    Step("target slots", ("target",), lambda d: refuse_unserved(d.target)),
    Step("eviction", ("source",), lambda d: check_eviction(d.job, d.source, d.warnings)),
    Step("target eviction", ("target",), lambda d: warn_of_eviction(d.target, d.warnings)),
    Step("modules", ("source", "target"), lambda d: check_modules(d.source, d.target, d.warnings)),
    Step("clocks", ("source", "target"), _compare_clocks),
    Step("replicas", ("source",), lambda d: check_replicas(d.source, d.warnings)),
    Step("watching", ("source",), lambda d: check_watching(d.source, d.warnings)),
    Step("databases", ("source",), _look_for_databases),
    Step("mapping", ("databases",), _map_databases),
    Step(
        "target databases",
        ("target", "scope"),
        lambda d: prove_databases(d.target, d.target_databases),
    ),
    Step("reading", ("databases",), _try_reading),
    Step("times", ("abilities", "target"), _check_times),
    Step("writing", ("target", "sample"), _try_writing),
    Step("target keys", ("target", "scope"), _count_target),
    Step("conflicts", ("target_keys",), _choose_policy),
    Step("room", ("target_keys",), lambda d: check_room(d)),
    Step("tuning", ("databases", "target"), _tune),
    Step("plan", ("shift", "scope", "abilities", "absttl", "policy", "tuning"), _plan),
)


def files_needed(workers: int, nodes: int) -> int:
    """Open files of the process that needs most: the coordinator has two a worker, the observer
    two a server."""
    return _OTHER_FILES + max(2 * workers, 2 * nodes)


def check_open_files(draft: Draft) -> None:
    """Say that this machine lets a process open too few files."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    workers, nodes = draft.job.workers, len(draft.source.infos) + len(draft.target.infos)
    needed = files_needed(workers, nodes)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        draft.warnings.append(
            f"This machine allows rumpx only {allowed:,} open files a process, and {workers:,} "
            f"workers and {nodes:,} servers may need {needed:,}. Raise the limit (ulimit -n), or "
            "ask for fewer --workers."
        )


def tune_to_distance(
    job: Job, source: SideFacts, target: SideFacts, databases: list[NodeKeys], partitions: int
) -> Tuning:
    """Settings from the round trips to both sides; `partitions` of 0 chooses."""
    return tune(
        source.clock.round_trip,
        target.clock.round_trip,
        keys=sum(place.keys for place in databases),
        workers=job.workers,
        nodes=len(source.topology.nodes),
        batch_keys=job.batch_keys,
        partitions=partitions,
    )


def with_schemes(side: SideFacts, databases: list[NodeKeys]) -> list[NodeKeys]:
    """The same databases, with how their cursors count."""
    found: dict[NodeKeys, NodeKeys] = {}
    for node in dict.fromkeys(place.node for place in databases):
        with connected(side.dialer, node.address) as connection:
            for place in databases:
                if place.node == node:
                    found[place] = replace(place, scheme=find_scheme(side, place, connection))
    return [found[place] for place in databases]


def worker_spec(
    job: Job,
    source: SideFacts,
    target: SideFacts,
    databases: list[NodeKeys],
    scope: Scope,
    abilities: Abilities,
    policy: Policy,
    tuning: Tuning,
    shift: int,
    *,
    absttl: bool,
) -> WorkerSpec:
    """What a worker that copies needs to know."""
    return WorkerSpec(
        source.dialer,
        target.dialer,
        source.topology,
        target.topology,
        abilities,
        tuple(sorted({place.db for place in databases})),
        scope,
        policy,
        tuning.pipeline_keys,
        bytes_for_worker(job, source),
        job.big_key,
        job.retry_for,
        target.clock.offset,
        shift,
        absttl,
    )


def scan_settings(
    job: Job, side: SideFacts, scope: Scope, sample: float = 1.0
) -> ScanSettings:
    """How a side is walked."""
    return ScanSettings(
        side.dialer,
        scope,
        job.retry_for,
        knows_scan_type(side, scope.types),
        sample,
    )


@contextmanager
def at_start(dialer: Dialer) -> Iterator[None]:
    """At the start nothing is retried: who cannot be reached is unusable."""
    try:
        yield
    except NoReplica as error:
        raise SourceUnusable(
            f"{error} Mend that, or have primaries read by leaving out --read-from, or where there "
            "is no replica by --read-from prefer-replica."
        ) from None
    except ConnectionLost as error:
        flag = flag_of(dialer.side)
        advice = f"Check {flag}, and that the server runs."
        tls = dialer.endpoint.tls
        if tls:
            # TLS 1.3 lets us believe that we are in; then the server just closes.
            verb = "check" if tls.cert else "give"
            advice += f" If it demands a client certificate, {verb} {flag}-cert and {flag}-key."
        raise unusable(dialer.side)(f"{error} {advice}") from None


@contextmanager
def connected(
    dialer: Dialer, address: Address | None, db: int = 0, mark: str = ""
) -> Iterator[Connection]:
    """A connection for a few questions; `mark` is the node's."""
    with at_start(dialer), marked(mark):
        connection = dialer.connect(address)
        try:
            select(connection, db, dialer.side)
            yield connection
        finally:
            connection.close()


def look(job: Job, side: Side) -> SideFacts:
    """Reach one side and ask it what it is."""
    endpoint: Endpoint = job.source if side == "source" else job.target
    # Until the copy runs no answer takes long: silence is found out within the connect timeout.
    read_from = job.read_from if side == "source" else "primary"
    dialer = Dialer(
        endpoint, side, job.connect_timeout, job.connect_timeout, read_from=read_from
    )
    with at_start(dialer):
        try:
            topology = read_places(dialer)
        except ConnectionLost as error:
            if error.silent or not dialer.hangs_up():
                raise
            why = "it ends the connection at commands that it does not know, as twemproxy does"
            raise unusable(side)(proxy_words(side, str(endpoint), why)) from None
        except NoReplica:
            raise
        except TemporaryError:
            with connected(dialer, None) as connection:
                refuse_silent_replica(side, connection)
            raise
    infos: dict[Address | None, ServerInfo | None] = {}
    clock = ServerClock(None, 0.0)
    no_touch = False
    for number, node in enumerate(topology.nodes):
        with connected(dialer, node.address, mark=node.mark) as connection:
            refuse_foreign(side, connection)
            info = read_info(connection)
            infos[node.address] = info
            if node.origin:
                infos[node.address] = _replica_info(connection, node.origin)
                if topology.cluster:
                    _prove_readonly(connection)
            elif info and info.upstream:
                refuse_silent_replica(side, connection)
                state = read_state(connection)
                infos[node.address] = replace(info, link=state.dataset if state else None)
            if number == 0:
                clock = measure_clock(connection)
                no_touch = connection.call("CLIENT", "NO-TOUCH", "ON") == b"OK"
    if may_be_balanced(dialer, topology):
        with at_start(dialer):
            refuse_balancer(dialer)
    dialer = replace(dialer, timeout=job.timeout, no_touch=no_touch, redials=Redials())
    return SideFacts(dialer, topology, infos, clock)


def may_be_balanced(dialer: Dialer, topology: Topology) -> bool:
    """Whether a side is one address that is dialled as it was given."""
    plain = dialer.endpoint.transport == "tcp" and dialer.read_from == "primary"
    return plain and not topology.cluster


def refuse_balancer(dialer: Dialer) -> None:
    """Each connection to one server's address must lead to the same server.

    Raises:
        ConnectionLost: nobody answers there now.
    """
    found = set()
    for _ in range(_CONNECTIONS_TRIED):
        connection = dialer.connect()
        try:
            info = read_info(connection)
        finally:
            connection.close()
        if info is None:
            return
        found.add(info.run_id)
        if len(found) > 1:
            raise unusable(dialer.side)(balancer_words(dialer.side, connection.name))


def balancer_words(side: Side, name: str) -> str:
    """What to say of an address behind which are several servers."""
    flag = flag_of(side)
    return (
        f"The {side} at {name} is not one server: its connections are answered by different ones "
        "(their run_id differs), as behind a load balancer over replicas. A SCAN cursor of one "
        f"means nothing on another: give one server's own address as {flag} (or, of a cluster, "
        f"{flag}-cluster yes)."
    )


def _replica_info(connection: Connection, origin: Origin) -> ServerInfo | None:
    """INFO of a replica that is read in its primary's place."""
    identity = prove(connection, origin)
    info = read_info(connection)
    # A replica evicts nothing of its own accord: it ignores maxmemory (unless told otherwise).
    return info and replace(info, link=identity.partition(":")[2], max_memory=0)


def _prove_readonly(connection: Connection) -> None:
    reply = connection.call("READONLY")
    if is_error(reply):
        raise SourceUnusable(
            f"The source's replica at {connection.name} refused READONLY, without which replicas "
            f"of a cluster are not read: {explain_refusal(reply, 'READONLY')}."
        )


def refuse_foreign(side: Side, connection: Connection) -> None:
    """Whoever answers must be a Redis, must let us in, and must be ready."""
    reply = connection.call("PING")
    told = connection.call("INFO", "server")
    if is_error(told) and is_proxy(told):
        why = f"it answers INFO by {str(told).rstrip('.')!r}"
        raise unusable(side)(proxy_words(side, connection.name, why))
    if refused(reply) or reply == b"PONG":
        return
    if not is_error(reply):
        raise misshapen(connection, "PING")
    text = str(reply)
    if cannot_save(reply):
        return
    if text.startswith(("LOADING", "MASTERDOWN", "BUSY ")):
        refuse_silent_replica(side, connection)
        raise TemporaryError(f"The {side} at {connection.name} is not ready: {text}")
    raise unusable(side)(f"The {side} at {connection.name} does not let us in: {text}")


def refuse_silent_replica(side: Side, connection: Connection) -> None:
    """A replica that loads its primary's data, or that answers no reads while it is cut off."""
    info = read_info(connection)
    upstream = info and info.upstream
    if not upstream:
        return
    reply = connection.call("DBSIZE")
    if str(reply).startswith("LOADING"):
        raise _unfit(side, connection.name, upstream.fault or "is loading its data")
    if str(reply).startswith("MASTERDOWN"):
        raise unusable(side)(
            f"The {side} at {connection.name} {upstream.fault or upstream.lag}, and answers no "
            "reads until the link is up again (replica-serve-stale-data no). Mend the link, or "
            "give its primary."
        )


def _unfit(side: Side, name: str, fault: str) -> RumpxError:
    return unusable(side)(
        f"The {side} at {name} is a replica and {fault}: what it holds is not its primary's data. "
        "Wait until INFO says master_link_status:up there, or give its primary (or, if its own "
        "data are wanted, detach it by REPLICAOF NO ONE)."
    )


def warn_of_trust(side: SideFacts, warnings: list[str]) -> None:
    """Say that a side's certificate is not verified."""
    tls = side.dialer.endpoint.tls
    if tls and tls.insecure:
        name, flag = side.dialer.side, flag_of(side.dialer.side)
        warnings.append(
            f"{flag}-insecure: the {name}'s certificate is not verified, so that another server "
            f"may stand in its place, read its password and every value, and change them. Give its "
            f"authority by {flag}-ca FILE instead."
        )


def check_upstreams(side: SideFacts, warnings: list[str]) -> None:
    """Refuse replicas that do not have their primary's data, and say how far others are behind."""
    name = side.dialer.side
    for node in side.topology.nodes:
        info = side.infos[node.address]
        if node.origin or not info or not info.upstream:
            continue
        where = node.label(str(side.dialer.endpoint))
        if info.upstream.fault:
            raise _unfit(name, where, info.upstream.fault)
        if info.upstream.lag:
            warnings.append(
                f"The {name} at {where} is a replica that {info.upstream.lag}: what was written "
                "since then it does not have."
            )
        if info.upstream.up and not info.link:
            warnings.append(_unnoticed(name, where))


def _unnoticed(side: Side, name: str) -> str:
    return (
        f"The {side}'s replica {name} refuses CLIENT LIST: should it be resynchronised in full "
        "meanwhile, that is not noticed, and keys may be missed."
    )


def refuse_same_chain(source: SideFacts, target: SideFacts) -> None:
    """Copying a replica to its own primary would write old values over new ones."""
    for here in source.infos.items():
        for there in target.infos.items():
            if what := shared_identity(source, here, target, there):
                raise TargetUnusable(
                    f"Source and target are one and the same: they share {what}. A copy would "
                    "write old values over new ones; give another --to."
                )


def shared_identity(
    source: SideFacts,
    here: tuple[Address | None, ServerInfo | None],
    target: SideFacts,
    there: tuple[Address | None, ServerInfo | None],
) -> str:
    """What two nodes have in common that only one server or replication chain can, or ""."""
    (near, info), (far, other) = here, there
    if info and other and info.run_id and info.run_id == other.run_id:
        return "the server process (run_id)"
    if info and other and info.replication_id and info.replication_id == other.replication_id:
        return "the replication history (master_replid)"
    dialled = source.dialer.endpoint, target.dialer.endpoint
    if near is None and far is None and info is None and other is None:
        if dialled[0].path and dialled[0].path == dialled[1].path:
            return f"the socket {dialled[0].path}"
        if common := set(dialled[0].addresses) & set(dialled[1].addresses):
            return f"the address {format_address(common.pop())}"
    elif near is not None and near == far:
        return f"the address {format_address(near)}"
    return ""


def refuse_replica(target: SideFacts) -> None:
    """A replica's primary would overwrite what we write, if it lets us write at all."""
    for address, info in target.infos.items():
        if info and info.role == "slave":
            name = format_address(address) if address else str(target.dialer.endpoint)
            raise TargetUnusable(
                f"The target at {name} is a replica; copy to its primary, or make it one by "
                "REPLICAOF NO ONE."
            )


def refuse_unserved(side: SideFacts) -> None:
    """In a cluster every slot needs an owner."""
    if count := unserved_slots(side.topology):
        name = side.dialer.side
        raise unusable(name)(
            f"The {name} cluster has {count:,} slots that no primary serves; repair it first "
            "(CLUSTER NODES shows which are missing)."
        )


def check_eviction(job: Job, source: SideFacts, warnings: list[str]) -> None:
    """Never make a full source evict, and say what reading does to LRU and LFU."""
    for address, info in source.infos.items():
        if not info or not info.evicts or job.allow_eviction:
            continue
        if info.used_memory > _NEARLY_FULL * info.max_memory:
            name = format_address(address) if address else str(source.dialer.endpoint)
            raise SourceUnusable(
                f"The source at {name} uses {info.used_memory / info.max_memory:.0%} of its "
                f"maxmemory and evicts ({info.policy}): the copy's buffers could make it drop "
                "keys. Copy from a replica, or accept it with --allow-eviction."
            )
    by_use = [policy for policy in eviction_policies(source) if policy.endswith(("lru", "lfu"))]
    if by_use and not source.dialer.no_touch:
        warnings.append(
            f"The source evicts by {', '.join(by_use)} and does not know CLIENT NO-TOUCH: that we "
            "read its keys will count as their use. Give a replica as --from to avoid that."
        )


def warn_of_eviction(target: SideFacts, warnings: list[str]) -> None:
    """Say that a target may drop what it is given."""
    if policies := eviction_policies(target):
        warnings.append(
            f"The target evicts keys when its memory is full ({', '.join(policies)}); what it "
            "evicts meanwhile is reported at the end."
        )


def eviction_policies(side: SideFacts) -> list[str]:
    """By which rules the primaries of one side drop keys; mostly they have the same."""
    return sorted({info.policy for info in side.infos.values() if info and info.evicts})


def missing_modules(source: SideFacts, target: SideFacts) -> list[str]:
    """Modules that a primary of the source has loaded, and no primary of the target."""
    here, there = (
        {name for info in side.infos.values() if info for name in info.modules}
        for side in (source, target)
    )
    known = {name.lower() for name in there}
    return sorted(name for name in here if name.lower() not in known)


def check_modules(source: SideFacts, target: SideFacts, warnings: list[str]) -> None:
    """Say that values of a module's types need the module."""
    hidden = None in target.infos.values()
    if not hidden and (missing := missing_modules(source, target)):
        warnings.append(
            f"The source has modules that the target lacks ({', '.join(missing)}): keys of their "
            "types cannot be copied. Load them on the target, or leave such keys out by --type."
        )


def data_in_scope(draft: Draft) -> int | None:
    """Bytes of memory that the source's data take, if all of them are in scope and INFO tells."""
    infos = [info for info in draft.source.infos.values() if info]
    everything = sum(sum(info.keys.values()) for info in infos)
    if draft.scope.filtered or everything != sum(place.keys for place in draft.databases):
        return None
    return sum(info.data_memory for info in infos) if everything else None


def room_on(info: ServerInfo, target_keys: int) -> int:
    """Bytes that a primary of the target has below its maxmemory. Keys that it has already may be
    the same as those that come, and then give their room back."""
    return max(0, info.max_memory - (info.startup_memory if target_keys else info.used_memory))


def check_room(draft: Draft) -> None:
    """Refuse data that cannot fit, and doubt those that hardly will, where nothing but INFO is
    needed to know. While it runs a copy sees what they really take (`room`).

    Raises:
        TargetFull: they cannot fit.
    """
    needed, limit = data_in_scope(draft), draft.job.limits.max_target_memory
    infos = draft.target.infos.values()
    if needed is None or limit is None or not all(info and info.max_memory for info in infos):
        return
    room = limit * sum(room_on(info, draft.target_keys) for info in infos if info)
    facts = (
        f"The source's data take {needed / 1e6:,.1f} MB, and below the target's maxmemory is room "
        f"for {room / 1e6:,.1f} MB"
    )
    if needed > _SURELY_TOO_LARGE * room:
        raise TargetFull(
            f"{facts}: they will not fit. Raise its maxmemory, choose fewer keys, or accept it "
            "with --max-target-memory off."
        )
    if needed > room:
        draft.warnings.append(f"{facts}: they will hardly fit. Raise its maxmemory.")


def bytes_for_worker(job: Job, source: SideFacts) -> int:
    """One worker's budget: our replies count toward the source's maxmemory, so that all together
    stay below a quarter of what it has left."""
    room = [
        (info.max_memory - info.used_memory) // (4 * job.workers)
        for info in source.infos.values()
        if info and info.max_memory
    ]
    return max(2**16, min([job.max_bytes_in_flight, *room]))


def check_clocks(
    job: Job, source: SideFacts, target: SideFacts, warnings: list[str]
) -> int:
    """ms to add to each expiry; 0 unless `--clock relative`."""
    if source.clock.offset is None or target.clock.offset is None:
        return 0
    skew = round(target.clock.offset - source.clock.offset)
    if job.clock == "relative":
        return skew
    if job.clock == "refuse" and abs(skew) > _SKEW_REFUSE_MS:
        raise TargetUnusable(
            f"The target's clock is {skew / 1000:+,.1f} s off the source's, so expiries would be "
            "wrong on one of them. Set the clocks, or choose --clock absolute (keep the instants) "
            "or --clock relative (keep the times left)."
        )
    if abs(skew) > _SKEW_WARN_MS:
        warnings.append(
            f"The target's clock is {skew / 1000:+,.1f} s off the source's; expiries are copied as "
            "instants."
        )
    return 0


def check_replicas(source: SideFacts, warnings: list[str]) -> None:
    """Say which primaries are read after all, and what is not noticed of replicas."""
    warnings += source.topology.notes
    silent = []
    for node in source.topology.nodes:
        info = source.infos[node.address]
        if node.origin and info and not info.link:
            silent.append(node.label(""))
    if silent:
        warnings.append(_unnoticed("source", ", ".join(silent)))


def check_watching(source: SideFacts, warnings: list[str]) -> None:
    """Say what of a walk over the source cannot be checked."""
    if not all(map(source.run_id, source.infos)):
        warnings.append(
            "The source does not tell its run_id: a cursor is not trusted any more once its "
            "connection is lost, and its walk begins anew."
        )
    if source.topology.cluster and not all(node.id for node in source.topology.nodes):
        warnings.append(
            "The source refuses CLUSTER NODES: slots that move during the copy are not noticed, "
            "and keys in them may be missed. Let no slots move meanwhile."
        )


def database_map(job: Job, databases: list[NodeKeys]) -> tuple[tuple[int, int], ...]:
    """`--map-db`, or what a database in the target's URI means."""
    if job.target.db is None:
        return job.scope.map_db
    chosen = chosen_databases(job)
    if not chosen:
        chosen = tuple(sorted({place.db for place in databases} or {0}))
    if len(chosen) > 1:
        raise UsageError(
            f"The target's URI names database {job.target.db}, but databases "
            f"{', '.join(map(str, chosen))} would be copied there, one over the other. Choose one "
            "by --db, or map them by --map-db FROM:TO."
        )
    return tuple((db, job.target.db) for db in chosen)


def chosen_databases(job: Job) -> tuple[int, ...]:
    """The source's databases that the user named; none for all."""
    return (job.source.db,) if job.source.db is not None else job.scope.databases


def find_databases(job: Job, source: SideFacts, warnings: list[str]) -> list[NodeKeys]:
    """Every (node, database) in scope that holds keys."""
    return databases_of(source, chosen_databases(job), warnings)


def databases_of(
    side: SideFacts, chosen: tuple[int, ...], warnings: list[str]
) -> list[NodeKeys]:
    """Every (node, database) of a side that holds keys; of all databases, or of those chosen."""
    places = []
    for node in side.topology.nodes:
        info = side.infos[node.address]
        if info is not None:
            keys = {db: n for db, n in info.keys.items() if n and (not chosen or db in chosen)}
        else:
            keys = _counted_databases(side.dialer, node, chosen, warnings)
        places += [
            NodeKeys(node, db, count, "unknown") for db, count in sorted(keys.items())
        ]
    return places


def _counted_databases(
    dialer: Dialer, node: Node, chosen: tuple[int, ...], warnings: list[str]
) -> dict[int, int]:
    """Keys by database where INFO, which lists them, is refused."""
    if chosen:
        return {db: _database_size(dialer, node, db) for db in chosen}
    warning = (
        f"The {dialer.side} refuses INFO: keys were looked for in databases 0 to "
        f"{_USUAL_DATABASES - 1} only; name others by --db."
    )
    if warning not in warnings:
        warnings.append(warning)
    with connected(dialer, node.address) as connection:
        counts = {}
        for db in range(1 if ignores_select(connection) else _USUAL_DATABASES):
            if db and is_error(connection.call("SELECT", db)):
                break
            size = ask_number(connection, "DBSIZE")
            if size != 0:  # also where DBSIZE is refused: then it is walked to see
                counts[db] = size or 0
        return counts


def _database_size(dialer: Dialer, node: Node, db: int) -> int:
    with connected(dialer, node.address, db) as connection:
        return ask_number(connection, "DBSIZE") or 0


def refuse_collisions(databases: list[int], map_db: dict[int, int]) -> None:
    """Two source databases must not be copied into one."""
    taken: dict[int, int] = {}
    for db in sorted(set(databases)):
        target = map_db.get(db, db)
        if target in taken:
            raise UsageError(
                f"Databases {taken[target]} and {db} would both be copied to database {target}, "
                "one over the other. Choose by --db, or map them apart by --map-db FROM:TO."
            )
        taken[target] = db


def prove_databases(side: SideFacts, databases: Sequence[int]) -> None:
    """SELECT each database on each primary; not 0, in which every connection begins, and which is
    there also where SELECT is refused."""
    others = [db for db in databases if db]
    for node in side.topology.nodes if others else ():
        with connected(side.dialer, node.address) as connection:
            for db in others:
                select(connection, db, side.dialer.side)
            if ignores_select(connection):
                raise unusable(side.dialer.side)(
                    f"The {side.dialer.side} at {connection.name} has database 0 only: it answers "
                    "SELECT, but does so even for a database that cannot exist. Choose others by "
                    "--db, or map them by --map-db FROM:TO."
                )


def ignores_select(connection: Connection) -> bool:
    """Whether SELECT is answered and does nothing, as on services that have one database only:
    keys of several would be written one over the other."""
    return not is_error(connection.call("SELECT", _NO_DATABASE))


def find_sample(side: SideFacts, databases: list[NodeKeys], scope: Scope) -> Sample:
    """A key in scope for trying out permissions, one that the user may read if there is one."""
    scans, closed = SCANS, None
    scan_type = knows_scan_type(side, scope.types) if databases else False
    for number, place in enumerate(databases):
        if not scans:
            break
        with connected(side.dialer, place.node.address, place.db) as connection:
            share = max(1, scans // (len(databases) - number))
            key, refused_key, taken = readable_key(
                connection, side.dialer.side, scope, scan_type, share
            )
            scans -= taken
        if key is not None:
            return Sample(place.node.address, place.db, key)
        if refused_key is not None and closed is None:
            closed = Sample(place.node.address, place.db, refused_key)
    return closed or Sample(side.topology.nodes[0].address, 0, b"rumpx")


def find_abilities(
    job: Job, facts: SideFacts, sample: Sample, warnings: list[str]
) -> Abilities:
    """Try on one key what reading values needs, and what would help."""
    side = facts.dialer.side
    with connected(facts.dialer, sample.node, sample.db) as connection:
        size = connection.call("MEMORY", "USAGE", sample.key, "SAMPLES", 1)
        # A large value may be more than the server can pass: another name stands in for it.
        large = isinstance(size, int) and size > _LARGEST_TRIED
        dumped = replace(sample, key=b"rumpx") if large else sample
        for command, key in (("SCAN", b"0"), ("DUMP", dumped.key), ("PTTL", sample.key)):
            reply = connection.call(command, key)
            if is_error(reply):
                refuse_command(side, connection, command, reply)
        expiry: Expiry = "instant"
        reply = connection.call("PEXPIRETIME", sample.key)
        if is_error(reply) and refused(reply):
            expiry = "clock" if isinstance(connection.call("TIME"), list) else "left"
            if expiry == "left":
                warnings.append(no_clock(side))
        sizes = _sizes(job, side, connection, sample, warnings)
    multi = not facts.topology.cluster and _allows_multi(facts, dumped, expiry)
    if not multi and not facts.topology.cluster:
        warnings.append(no_multi(side))
    return Abilities(expiry, multi, sizes)


def _allows_multi(facts: SideFacts, sample: Sample, expiry: Expiry) -> bool:
    """Whether a group is executed with what a copy reads in it; or where the user may not read the
    sample, which aborts it, an empty one. On a connection of its own: one that refuses EXEC stays
    in its MULTI."""
    second = "PEXPIRETIME" if expiry == "instant" else "PTTL"
    group: list[Command] = [("MULTI",), ("DUMP", sample.key), (second, sample.key), ("EXEC",)]
    if expiry == "clock":
        group.insert(2, ("TIME",))
    with connected(facts.dialer, sample.node, sample.db) as connection:
        replies = connection.call_many(group)
        if any(is_error(reply) and key_refused(reply) for reply in replies):
            replies = connection.call_many([("MULTI",), ("EXEC",)])
        return isinstance(replies[-1], list)


def _sizes(
    job: Job, side: Side, connection: Connection, sample: Sample, warnings: list[str]
) -> Literal["memory", "length", "none"]:
    if not job.size_check:
        return "none"
    if not refused(connection.call("MEMORY", "USAGE", sample.key, "SAMPLES", 1)):
        return "memory"
    if not refused(connection.call("TYPE", sample.key)):
        warnings.append(no_memory_usage(side))
        return "length"
    warnings.append(no_sizes(side))
    return "none"


def prove_restore(target: SideFacts, sample: Sample, *, replace: bool) -> bool:
    """Whether each primary of the target takes RESTORE … ABSTTL; see `abilities`."""
    takes = True
    for node in target.topology.nodes:
        with connected(target.dialer, node.address) as connection:
            takes &= takes_absttl(connection, sample.key, replace=replace)
    return takes


def lacks_absttl(target: SideFacts, sample: Sample) -> bool:
    """Whether a primary of the target is known to take no RESTORE … ABSTTL."""
    dialer = replace(target.dialer, timeout=_PROBE_SECONDS)
    for node in target.topology.nodes:
        with connected(dialer, node.address) as connection:
            if refuses_absttl(connection, sample.key):
                return True
    return False


def count_keys(side: SideFacts, databases: list[int]) -> int:
    """Keys in some databases of all primaries, now."""
    total = 0
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            info = read_info(connection)
        if info is not None:
            total += sum(count for db, count in info.keys.items() if db in databases)
        else:
            total += sum(_database_size(side.dialer, node, db) for db in databases)
    return total


def conflict_policy(job: Job, target_keys: int, ask: Ask | None) -> Policy:
    """What to do with keys that the target has."""
    if job.on_conflict != "ask":
        return job.on_conflict
    if target_keys == 0:
        return "replace"
    question = f"The target already holds {target_keys:,} keys."
    policy = ask(question) if ask else None
    if policy is None:
        raise TargetUnusable(
            f"{question} Say what to do with keys that both have: --on-conflict replace "
            "(overwrite), skip (keep the target's) or fail (list them as failed)."
        )
    return policy


def find_scheme(source: SideFacts, place: NodeKeys, connection: Connection) -> str:
    """How the cursor of a database counts, where that is proven; else "unknown"."""
    info = source.infos[place.node.address]
    if info is None or not info.proven_cursors or source.dialer.endpoint.cluster is False:
        return "unknown"
    if not source.topology.cluster:
        plausible = info.mode == "standalone" and _plausible(place, connection, source.dialer.side)
        return "table" if plausible else "unknown"
    if info.mode != "cluster":
        return "unknown"
    return cursor_scheme(_sample_pages(place, connection, source.dialer.side), place.keys)


def _plausible(place: NodeKeys, connection: Connection, side: Side) -> bool:
    return all(
        cursor_is_plausible(page.after, place.keys)
        for page in _sample_pages(place, connection, side)
    )


def _sample_pages(place: NodeKeys, connection: Connection, side: Side) -> list[SamplePage]:
    """The first few SCAN replies."""
    pages = []
    cursor = 0
    select(connection, place.db, side)
    for _ in range(_SAMPLE_PAGES):
        reply = connection.call("SCAN", cursor, "COUNT", _SAMPLE_COUNT)
        if not isinstance(reply, list):
            break
        after, keys = scanned(connection, side, reply)
        pages.append(SamplePage(cursor, after, tuple(keys)))
        cursor = after
        if not cursor:
            break
    return pages


def knows_scan_type(source: SideFacts, types: tuple[str, ...]) -> bool:
    """Whether SCAN … TYPE (≥ 6.0) can be used for the one type that is wanted."""
    if len(types) != 1:
        return False
    with connected(source.dialer, source.topology.nodes[0].address) as connection:
        return not is_error(connection.call("SCAN", 0, "COUNT", 1, "TYPE", types[0]))


