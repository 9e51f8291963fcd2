"""`--metrics [HOST:]PORT`: the run as metrics for Prometheus, over HTTP.

A `Metrics` is a display that only keeps the latest Snapshot: metrics are computed at each scrape,
so a run pays nothing in between. They are served as Prometheus' text format or as OpenMetrics, as
the client requests, on any path. The server listens from before the run until `close`, so that the
last state can be scraped while `--on-end` runs.

Names start with `rumpx_`; units are seconds, bytes, and ratios of 0 to 1 (of CPU, 1 is one core).
Before the first Snapshot there are only `rumpx_info` and `rumpx_state`; a sample with an unknown
value is left out, and those of a follow, `rumpx_follow_…`, if the job does not follow. The job's
name is the label `job_name`, since Prometheus has a `job` of its own. No label holds a key's name
or a changing number, so the number of time series grows with workers, partitions and nodes only.

A scraper has a few seconds each to send its request and to read the response, and the number of
clients is bounded: a further one ends the oldest connection. So a stuck scraper delays neither the
run nor other scrapers.

Not promised: counters that never fall. They continue when a job is resumed, but a walk that
restarts since a server's process changed takes its counts back, `outcome="failed"` falls when
`--retry-failed` copies keys after all, and a comparison after the copy (`--verify`) counts from
zero; Prometheus takes that for a restart. Nor that the end is scraped at all. Nor secrecy: every
client that reaches the address may read, so the default is the loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final, TextIO, get_args
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rumpx.display.display import Silent
from rumpx.errors import UsageError
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address, format_address
from rumpx.model.follow import FollowStat
from rumpx.model.snapshot import HOLDS, NodeStat, Row, Snapshot, State, WorkerStat
from rumpx.text import legible

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

LOOPBACK: Final = "127.0.0.1"
_MOST_CLIENTS: Final = 16
_CLIENT_SECONDS: Final = 5.0
_OUTCOMES: Final = tuple(
    field.name for field in dataclasses.fields(Counts) if field.name != "payload_bytes"
)


def parse_listen(text: str) -> Address:
    """Parse `9121` or `:9121` (on the loopback), `127.0.0.1:9121` or `[::1]:9121`.

    Raises:
        UsageError: the text has none of these forms.
    """
    match = re.fullmatch(r"(?:(?:\[([^\[\]\s]+)\]|([^\[\]:/\s]*)):)?([0-9]{1,5})", text)
    if not match or not 1 <= int(match[3]) <= 65_535:
        raise UsageError(
            f"--metrics: '{text[:60]}' is not [HOST:]PORT; write for example 9121, "
            "0.0.0.0:9121 or [::1]:9121."
        )
    return match[1] or match[2] or LOOPBACK, int(match[3])


class Metrics(Silent):
    """The display for `--metrics`: keeps the latest Snapshot for scrapes; serves from its creation
    on.

    Args:
        address: to listen on, from `parse_listen`.

    Raises:
        UsageError: the address cannot be used, or prometheus-client is not installed.
    """

    def __init__(self, address: Address) -> None:
        self._latest: Snapshot | None = None
        self._server, self._thread = _serve(address, self)

    def show(self, snapshot: Snapshot) -> None:
        """Keep the snapshot."""
        self._latest = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics at each scrape, for prometheus_client."""
        return metrics_of(self._latest)

    def close(self) -> None:
        """Stop serving; takes up to half a second, and may be repeated."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Handler(WSGIRequestHandler):
    """Serves one client; each wait for it is bounded."""

    timeout = _CLIENT_SECONDS

    def get_stderr(self) -> TextIO:
        """Discard errors: the terminal shows the bars, and a lost client is not worth a message."""
        return io.StringIO()

    def log_message(self, format: str, *args: object) -> None:
        """Do not log scrapes."""


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each client in a thread, up to a bounded number."""

    daemon_threads = True

    def __init__(self, address: Address, handler: type[WSGIRequestHandler]) -> None:
        self._clients: list[socket.socket] = []
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the reverse DNS lookup of the base class, which may take long."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one more client; with too many, end the oldest connection."""
        with self._lock:
            if len(self._clients) >= _MOST_CLIENTS:
                with contextlib.suppress(OSError):
                    self._clients[0].shutdown(socket.SHUT_RDWR)
                del self._clients[0]
            self._clients.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a client that was served or has disconnected."""
        with self._lock, contextlib.suppress(ValueError):
            self._clients.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that disconnects; a traceback would disturb the bars."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def _serve(address: Address, collector: Collector) -> tuple[WSGIServer, threading.Thread]:
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app
    except ImportError:
        raise UsageError(
            "--metrics needs the package prometheus-client: pip install 'rumpx[metrics]'."
        ) from None
    registry = CollectorRegistry()
    registry.register(collector)
    host, port = address
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        kind = _Server6 if family is socket.AF_INET6 else _Server
        server = make_server(str(place[0]), port, make_wsgi_app(registry), kind, _Handler)
    except (OSError, UnicodeError) as error:  # the latter for invalid host names
        reason = error.strerror if isinstance(error, OSError) else "invalid host name"
        raise UsageError(
            f"--metrics: cannot listen on {format_address(address)}: {reason}. Give another "
            "[HOST:]PORT."
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread


def metrics_of(snapshot: Snapshot | None) -> Iterator[Metric]:
    """Yield all metrics of a run; None before the first Snapshot."""
    snapshot = legible(snapshot)
    yield from _always(snapshot)
    if snapshot is not None:
        yield from _metrics(snapshot)


def _always(snapshot: Snapshot | None) -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily

    from rumpx._version import __version__

    told = {"version": __version__, "job_name": "", "source": "", "target": ""}
    state: State = "starting"
    if snapshot is not None:
        told |= {"job_name": snapshot.job, "source": snapshot.source, "target": snapshot.target}
        state = snapshot.state
    about = "The run: rumpx's version, the job's name, and both sides without credentials."
    yield InfoMetricFamily("rumpx", about, told)
    states = [((name,), float(name == state)) for name in get_args(State)]
    yield _metric("state", "1 for the run's current state, else 0.", ("state",), states)


def _metrics(snapshot: Snapshot) -> Iterator[Metric]:
    for name, text, measure in _SINGLE:
        value = measure(snapshot)
        yield _metric(name, text, (), [] if value is None else [((), value)])
    for name, label, text, list_all in _LABELLED:
        samples = [((value,), number) for value, number in list_all(snapshot)]
        yield _metric(name, text, (label,), samples)
    numbered = _numbered(snapshot.workers)
    for name, text, of_worker in _WORKERS:
        measured = [(labels, of_worker(worker)) for labels, worker in numbered]
        yield _metric(name, text, ("host", "worker"), measured)
    for name, text, of_node in _NODES:
        known = [((node.side, node.label), of_node(node)) for node in snapshot.nodes]
        samples_known = [(labels, number) for labels, number in known if number is not None]
        yield _metric(name, f"{text} Absent while unknown.", ("side", "node"), samples_known)
    if follow := snapshot.follow:
        for name, text, of_follow in _FOLLOW:
            told = of_follow(follow)
            yield _metric(f"follow_{name}", text, (), [] if told is None else [((), told)])


def _metric(
    name: str,
    text: str,
    labels: tuple[str, ...],
    samples: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    make = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    metric = make(f"rumpx_{name}", text, labels=labels)
    for values, number in samples:
        metric.add_metric(values, number)
    return metric


def _numbered(workers: Iterable[WorkerStat]) -> list[tuple[tuple[str, str], WorkerStat]]:
    """Return each worker with its labels: its machine, "" for this one, and its number there."""
    numbers = Counter[str]()
    numbered = []
    for worker in workers:
        numbers[worker.host] += 1
        numbered.append(((worker.host, str(numbers[worker.host])), worker))
    return numbered


def _walk_states(snapshot: Snapshot) -> Iterable[tuple[str, float]]:
    states = [_walk_state(row) for row in snapshot.partitions]
    return [(state, states.count(state)) for state in ("waiting", "walking", "done")]


def _walk_state(row: Row) -> str:
    if row.done:
        return "done"
    return "walking" if row.fraction or row.counts.settled else "waiting"


def _latencies(snapshot: Snapshot) -> Iterable[tuple[str, float]]:
    held = snapshot.held
    sides = (("source", held.source_latency), ("target", held.target_latency))
    return [(side, latency) for side, latency in sides if latency is not None]


# Name, help, value; None if unknown. A name that ends in _total is a counter's.
_SINGLE: Final[tuple[tuple[str, str, Callable[[Snapshot], float | None]], ...]] = (
    ("progress_ratio", "Settled part of the walk.", lambda s: s.fraction),
    (
        "elapsed_seconds",
        "Time since the copy started, earlier runs of the job included.",
        lambda s: s.elapsed,
    ),
    ("eta_seconds", "Estimated remaining time; absent while unknown.", lambda s: s.eta),
    (
        "payload_bytes_total",
        "Bytes of the DUMP payloads of keys copied or compared.",
        lambda s: s.counts.payload_bytes,
    ),
    (
        "keys_expected",
        "Keys of the source in scope at the start; with filters an upper bound.",
        lambda s: s.keys_expected,
    ),
    (
        "keys_per_second",
        "Keys settled a second, over the last few seconds.",
        lambda s: s.keys_per_second,
    ),
    (
        "bytes_per_second",
        "Bytes of payloads a second, over the last few seconds.",
        lambda s: s.bytes_per_second,
    ),
    (
        "governor_share_ratio",
        "Part of full concurrency that the governor currently allows.",
        lambda s: s.held.share,
    ),
    (
        "governor_off",
        "1 while the timetable or a pause stops the run, else 0.",
        lambda s: s.held.off,
    ),
    (
        "worker_restarts_total",
        "Workers that died and were replaced.",
        lambda s: s.worker_restarts,
    ),
    ("batches_in_flight", "Batches that workers currently hold.", lambda s: s.batches_in_flight),
    (
        "coordinator_cpu_ratio",
        "CPU of the coordinator process; 1 is one core.",
        lambda s: s.coordinator_cpu / 100,
    ),
    (
        "coordinator_memory_bytes",
        "Resident memory of the coordinator process.",
        lambda s: s.coordinator_memory,
    ),
)

# Name, label, help, pairs of the label's value and the number.
_LABELLED: Final[
    tuple[tuple[str, str, str, Callable[[Snapshot], Iterable[tuple[str, float]]]], ...]
] = (
    (
        "keys_total",
        "outcome",
        "Settled keys, by outcome.",
        lambda s: [(name, getattr(s.counts, name)) for name in _OUTCOMES],
    ),
    (
        "failures_total",
        "reason",
        "Failed keys of this run, by reason.",
        lambda s: s.failures.items(),
    ),
    (
        "copied_keys_total",
        "type",
        "Keys copied, by the type of their values.",
        lambda s: [(count.type, count.keys) for count in s.content.types],
    ),
    (
        "copied_bytes_total",
        "type",
        "Bytes of the DUMP payloads copied, by the type of the values.",
        lambda s: [(count.type, count.payload_bytes) for count in s.content.types],
    ),
    (
        "partition_progress_ratio",
        "partition",
        "Settled part of each partition.",
        lambda s: [(row.label, row.fraction) for row in s.partitions],
    ),
    ("partitions", "state", "Partitions waiting, walking, or done.", _walk_states),
    (
        "latency_seconds",
        "side",
        "PING time above the idle one, on the worst node of the side: the second-highest of "
        "the last second. Absent while unknown.",
        _latencies,
    ),
    (
        "held",
        "by",
        "1 for each cause that currently throttles the run, else 0.",
        lambda s: [(by, by in s.held.by) for by in HOLDS],
    ),
    (
        "held_seconds_total",
        "by",
        "Time for which each cause has throttled this run; several may at once.",
        lambda s: [(by, s.held.seconds.get(by, 0.0)) for by in HOLDS],
    ),
)

# Name, help, value of one worker. Workers are numbered by machine: a new one takes over the time
# series of a lost one.
_WORKERS: Final[tuple[tuple[str, str, Callable[[WorkerStat], float]], ...]] = (
    (
        "worker_cpu_ratio",
        "CPU of a worker process; 1 is one core.",
        lambda worker: worker.cpu / 100,
    ),
    (
        "worker_memory_bytes",
        "Resident memory of a worker process.",
        lambda worker: worker.memory,
    ),
    (
        "worker_batches",
        "Batches that a worker currently holds.",
        lambda worker: worker.batches,
    ),
)

# Name, help, value of one server process.
_NODES: Final[tuple[tuple[str, str, Callable[[NodeStat], float | None]], ...]] = (
    (
        "node_latency_seconds",
        "PING time of the node above the idle one.",
        lambda node: node.latency,
    ),
    (
        "node_cpu_ratio",
        "CPU of the node from its INFO; 1 is one core.",
        lambda node: None if node.cpu is None else node.cpu / 100,
    ),
    ("node_memory_bytes", "Memory of the node from its INFO.", lambda node: node.memory),
    (
        "node_max_memory_bytes",
        "The node's maxmemory; 0 is no limit.",
        lambda node: node.max_memory,
    ),
)

# Name, help, value of a follow; None if unknown.
_FOLLOW: Final[tuple[tuple[str, str, Callable[[FollowStat], float | None]], ...]] = (
    (
        "lag_seconds",
        "Age of the oldest change that is not settled, or of a question that the feed has not "
        "answered. Absent while unknown, and if changes are found by passes.",
        lambda follow: follow.lag,
    ),
    ("dirty_keys", "Changed keys that are not settled.", lambda follow: follow.dirty),
    (
        "changes_total",
        "Changed keys that the source has reported, each as often as it was.",
        lambda follow: follow.facts.changes,
    ),
    (
        "settled_total",
        "Changed keys that were read anew, and written or deleted.",
        lambda follow: follow.facts.settled,
    ),
    (
        "deleted_total",
        "Those of the settled keys that were deleted on the target.",
        lambda follow: follow.facts.deleted,
    ),
    (
        "gaps_total",
        "Moments at which changes may have been missed; a pass over both sides mends each.",
        lambda follow: follow.facts.gaps,
    ),
    ("in_step", "1 while the target is in step with the source, else 0.", lambda f: f.in_step),
    (
        "last_pass_timestamp_seconds",
        "End of the last pass over both sides, since 1970. Absent before the first.",
        lambda follow: follow.facts.last_pass,
    ),
    (
        "held_deletes",
        "Keys that only the target has, and that wait for the user's consent to be deleted.",
        lambda follow: follow.held_deletes,
    ),
    ("failed_keys", "Keys that could not be settled.", lambda follow: follow.failed),
)
