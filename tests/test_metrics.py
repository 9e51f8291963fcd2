"""`--metrics`: what is told, from made-up Snapshots and of a copy under way, scraped by HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import rumpx
from rumpx.display.metrics import Metrics, metrics_of, parse_listen
from rumpx.errors import UsageError
from rumpx.model.content import Content, TypeCount
from rumpx.model.counts import Counts
from rumpx.model.snapshot import HOLDS, Held, NodeStat, Row, Snapshot, State, WorkerStat
from support.copying import Copying
from support.data import fill_mixed
from support.run import rumpx as run_rumpx
from support.servers import Server, free_port
from support.snapshots import make_follow, make_snapshot
from support.waiting import wait_until

Labels = tuple[tuple[str, str], ...]
Scraped = dict[tuple[str, Labels], float]


def full_snapshot(**changes: Any) -> Snapshot:
    """Everything that can be known is known."""
    snapshot = make_snapshot(
        target="rediss://cache.example.com:6380",
        elapsed=62.5,
        fraction=0.25,
        counts=Counts(copied=400, gone=12, failed=5, payload_bytes=110_000),
        keys_per_second=172_345.5,
        bytes_per_second=46_000_000.0,
        eta=187.5,
        rows=(),
        partitions=(
            Row("part 1/4", 1.0, Counts(copied=250), True),
            Row("part 2/4", 0.5, Counts(copied=150), False),
            Row("part 3/4", 0.0, Counts(failed=5), False),
            Row("part 4/4", 0.0, Counts(), False),
        ),
        workers=(WorkerStat(4711, 78.0, 52_000_000, 4), WorkerStat(4712, 150.0, 53_000_000, 3)),
        worker_restarts=2,
        batches_in_flight=7,
        held=Held(
            reason="throttled by source latency 6.1 ms > 5 ms",
            off=False,
            source_latency=0.0061,
            target_latency=0.0007,
            by=("source latency", "keys a second"),
            share=0.3,
            seconds={"source latency": 31.5, "keys a second": 4.0},
        ),
        nodes=(
            NodeStat("source", "10.0.0.1:6379", 0.0061, 55.0, 3_000_000, 0),
            NodeStat("target", "10.0.0.2:6380", 0.0007, None, None, None),
        ),
        failures={"busy key": 3, "NOPERM": 2},
        content=Content(types=(TypeCount("hash", 300, 90_000), TypeCount("string", 100, 20_000))),
        follow=make_follow(),
    )
    return dataclasses.replace(snapshot, **changes)


def exposition(snapshot: Snapshot | None) -> str:
    """The text format of one Snapshot."""

    class Scraped:
        def collect(self) -> Iterable[Metric]:
            return metrics_of(snapshot)

    registry = CollectorRegistry()
    registry.register(Scraped())
    return generate_latest(registry).decode()


def families_of(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def samples_of(text: str) -> Scraped:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families_of(text)
        for sample in family.samples
    }


def told(text: str, name: str, **labels: str) -> float | None:
    """One sample; None if there is none."""
    return samples_of(text).get((name, tuple(sorted(labels.items()))))


def by_label(text: str, name: str) -> dict[str, float]:
    """The samples of a metric with one label."""
    return {
        labels[0][1]: value for (known, labels), value in samples_of(text).items() if known == name
    }


def by_worker(text: str, name: str) -> dict[tuple[str, str], float]:
    """The samples of a metric of workers, by machine and number."""
    return {
        (dict(labels)["host"], dict(labels)["worker"]): value
        for (known, labels), value in samples_of(text).items()
        if known == name
    }


def scrape(port: int, accept: str = "", host: str = "127.0.0.1") -> tuple[str, str]:
    """(content type, text) of one scrape."""
    request = urllib.request.Request(f"http://{host}:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@pytest.fixture
def serving() -> Iterator[tuple[Metrics, int]]:
    """A display that serves, and its port."""
    port = free_port()
    metrics = Metrics(("127.0.0.1", port))
    try:
        yield metrics, port
    finally:
        metrics.close()


# --- what is told ----------------------------------------------------------------------------


def test_the_run_by_its_numbers() -> None:
    text = exposition(full_snapshot())
    numbers = {
        "rumpx_progress_ratio": 0.25,
        "rumpx_elapsed_seconds": 62.5,
        "rumpx_eta_seconds": 187.5,
        "rumpx_payload_bytes_total": 110_000,
        "rumpx_keys_expected": 1_000_000,
        "rumpx_keys_per_second": 172_345.5,
        "rumpx_bytes_per_second": 46_000_000,
        "rumpx_governor_share_ratio": 0.3,
        "rumpx_governor_off": 0,
        "rumpx_worker_restarts_total": 2,
        "rumpx_batches_in_flight": 7,
        "rumpx_coordinator_cpu_ratio": 0.43,
        "rumpx_coordinator_memory_bytes": 61_000_000,
    }
    assert {name: told(text, name) for name in numbers} == numbers


def test_the_run_by_its_parts() -> None:
    text = exposition(full_snapshot())
    keys = by_label(text, "rumpx_keys_total")
    assert keys.pop("copied") == 400 and keys.pop("gone") == 12 and keys.pop("failed") == 5
    assert set(keys.values()) == {0}
    names = {field.name for field in dataclasses.fields(Counts)}
    assert {*keys, "copied", "gone", "failed", "payload_bytes"} == names
    assert by_label(text, "rumpx_failures_total") == {"busy key": 3, "NOPERM": 2}
    assert by_label(text, "rumpx_copied_keys_total") == {"hash": 300, "string": 100}
    assert by_label(text, "rumpx_copied_bytes_total") == {"hash": 90_000, "string": 20_000}
    assert by_label(text, "rumpx_partition_progress_ratio") == {
        "part 1/4": 1.0,
        "part 2/4": 0.5,
        "part 3/4": 0.0,
        "part 4/4": 0.0,
    }
    assert by_label(text, "rumpx_partitions") == {"waiting": 1, "walking": 2, "done": 1}
    assert by_worker(text, "rumpx_worker_cpu_ratio") == {("", "1"): 0.78, ("", "2"): 1.5}
    memory = {("", "1"): 52_000_000, ("", "2"): 53_000_000}
    assert by_worker(text, "rumpx_worker_memory_bytes") == memory
    assert by_worker(text, "rumpx_worker_batches") == {("", "1"): 4, ("", "2"): 3}


def test_workers_of_several_machines_are_numbered_by_machine() -> None:
    workers = tuple(WorkerStat(n, 50.0, 1, n, host) for n, host in enumerate("aabab"))
    batches = by_worker(exposition(full_snapshot(workers=workers)), "rumpx_worker_batches")
    assert batches == {("a", "1"): 0, ("a", "2"): 1, ("b", "1"): 2, ("a", "3"): 3, ("b", "2"): 4}


def test_what_the_servers_feel_and_what_holds_the_run() -> None:
    text = exposition(full_snapshot())
    assert by_label(text, "rumpx_latency_seconds") == {"source": 0.0061, "target": 0.0007}
    held = by_label(text, "rumpx_held")
    assert {by for by, now in held.items() if now} == {"source latency", "keys a second"}
    assert set(held) == set(by_label(text, "rumpx_held_seconds_total")) == set(HOLDS)
    assert told(text, "rumpx_held_seconds_total", by="source latency") == 31.5
    source = {"side": "source", "node": "10.0.0.1:6379"}
    assert told(text, "rumpx_node_latency_seconds", **source) == 0.0061
    assert told(text, "rumpx_node_cpu_ratio", **source) == 0.55
    assert told(text, "rumpx_node_memory_bytes", **source) == 3_000_000
    assert told(text, "rumpx_node_max_memory_bytes", **source) == 0
    assert "6.1 ms" not in text, "a reason with numbers would be a new time series each time"


@pytest.mark.parametrize("state", get_args(State))
def test_one_state_is_1(state: State) -> None:
    states = by_label(exposition(full_snapshot(state=state)), "rumpx_state")
    assert set(states) == set(get_args(State))
    assert [name for name, now in states.items() if now] == [state]


def test_what_is_unknown_is_left_out() -> None:
    unknown = full_snapshot(
        eta=None,
        held=Held(),
        nodes=(NodeStat("source", "a:1", None, None, None, None),),
        failures={},
        content=Content(),
        partitions=(),
        workers=(),
    )
    samples = {name for name, _ in samples_of(exposition(unknown))}
    absent = {
        "rumpx_eta_seconds",
        "rumpx_latency_seconds",
        "rumpx_node_latency_seconds",
        "rumpx_node_cpu_ratio",
        "rumpx_node_memory_bytes",
        "rumpx_node_max_memory_bytes",
    }
    assert not samples & absent
    assert absent <= {name for name, _ in samples_of(exposition(full_snapshot()))}


def test_before_the_first_snapshot() -> None:
    text = exposition(None)
    nothing = {"job_name": "", "source": "", "target": ""}
    assert told(text, "rumpx_info", version=rumpx.__version__, **nothing) == 1
    assert told(text, "rumpx_state", state="starting") == 1
    assert {name for name, _ in samples_of(text)} == {"rumpx_info", "rumpx_state"}


def test_names_and_help() -> None:
    for family in families_of(exposition(full_snapshot())):
        names = {sample.name for sample in family.samples}
        assert len(names) == 1, family
        name = names.pop()
        assert re.fullmatch(r"rumpx_[a-z_]+", name)
        assert name.endswith("_total") == (family.type == "counter"), name
        assert family.documentation.endswith("."), name
        for sample in family.samples:
            assert not {"job", "instance"} & set(sample.labels), "Prometheus sets these itself"
            assert not name.endswith("_ratio") or 0 <= sample.value <= 2, sample


def test_counters_do_not_fall_while_a_copy_goes_on() -> None:
    before = full_snapshot()
    after = full_snapshot(
        counts=before.counts + Counts(copied=50, skipped=2, payload_bytes=9),
        failures={"busy key": 4, "NOPERM": 2, "OOM": 1},
        worker_restarts=3,
        held=dataclasses.replace(before.held, seconds={**before.held.seconds, "pause": 3.0}),
        content=Content(types=(TypeCount("string", 400, 21_000), TypeCount("hash", 301, 90_001))),
        follow=make_follow(changes=1_234_568, settled=1_200_001, deleted=12_346, gaps=3),
    )
    first, second = (samples_of(exposition(snapshot)) for snapshot in (before, after))
    counters = {sample for sample in first if sample[0].endswith("_total")}
    assert len({name for name, _ in counters}) == 11
    assert all(second[sample] >= first[sample] for sample in counters)


ODD = ('quo"ted', "back\\slash", "two\nlines", "Köln \u65e5\u672c", "\udcff", "\x1b[2J", "x" * 5000)


@pytest.mark.parametrize("name", ODD)
def test_odd_labels(name: str) -> None:
    odd = full_snapshot(
        job=name,
        source=f"redis://{name}",
        partitions=(Row(name, 0.5, Counts(), False),),
        nodes=(NodeStat("source", name, 0.1, 1.0, 1, 1),),
        failures={name: 1},
    )
    text = exposition(odd)
    plain = dataclasses.replace(odd, failures={"reason": 1})
    assert text.count("\n") == exposition(plain).count("\n") == len(text.splitlines())
    assert len(by_label(text, "rumpx_failures_total")) == 1
    (label,) = by_label(text, "rumpx_partition_progress_ratio")
    assert label.isprintable() and len(label) <= 1000
    if name.isprintable() and "\\" not in name and len(name) < 1000:
        assert label == name


# --- where it is served ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9121", ("127.0.0.1", 9121)),
        (":9121", ("127.0.0.1", 9121)),
        ("127.0.0.1:9121", ("127.0.0.1", 9121)),
        ("localhost:1", ("localhost", 1)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::1]:9121", ("::1", 9121)),
        ("[fe80::1%eth0]:9121", ("fe80::1%eth0", 9121)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text", ["", "0", ":0", "65536", "host", "host:", "::1:9121", "[::1]", "a b:1", "-1", "1:2:3"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--metrics: .*0\.0\.0\.0:9121"):
        parse_listen(text)


def test_a_port_that_is_taken(serving: tuple[Metrics, int]) -> None:
    _, port = serving
    with pytest.raises(
        UsageError, match=f"^--metrics: cannot listen on 127.0.0.1:{port}: Address already in use"
    ):
        Metrics(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "x" * 70])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(UsageError, match=rf"^--metrics: cannot listen on {host}:9121: \w"):
        Metrics((host, 9121))


def test_scraped_in_both_formats(serving: tuple[Metrics, int]) -> None:
    metrics, port = serving
    assert told(scrape(port)[1], "rumpx_state", state="starting") == 1
    metrics.show(full_snapshot())
    kind, text = scrape(port)
    assert kind.startswith("text/plain") and told(text, "rumpx_progress_ratio") == 0.25
    kind, text = scrape(port, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text") and text.endswith("# EOF\n")
    families = {family.name: family for family in read_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert families["rumpx_keys"].type == "counter" and families["rumpx"].type == "info"


def test_the_last_state_is_there_until_the_end() -> None:
    port = free_port()
    metrics = Metrics(("127.0.0.1", port))
    threads = threading.active_count()
    metrics.show(full_snapshot(state="done", fraction=1.0, eta=None))
    metrics.stop()
    assert told(scrape(port)[1], "rumpx_state", state="done") == 1
    metrics.close()
    metrics.close()
    wait_until(lambda: threading.active_count() < threads, 10, "the server's thread has ended")
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), 1):
        pass
    Metrics(("127.0.0.1", port)).close()  # the port is free again


def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
            port = listener.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no ::1")
    metrics = Metrics(("::1", port))
    try:
        assert "rumpx_info" in scrape(port, host="[::1]")[1]
    finally:
        metrics.close()


def test_a_client_that_breaks_off_is_not_heard_of(
    serving: tuple[Metrics, int], capfd: pytest.CaptureFixture[str]
) -> None:
    metrics, port = serving
    metrics.show(full_snapshot())
    before = threading.active_count()
    for said in (b"", b"GET /met"):
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(said)
            wait_until(lambda: threading.active_count() > before, 10, "a thread serves it")
            # Closed by a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: threading.active_count() <= before, 10, "its thread has ended")
    assert told(scrape(port)[1], "rumpx_progress_ratio") == 0.25
    assert capfd.readouterr() == ("", "")


CLIENTS = 60


def _silent(client: socket.socket) -> None:
    """It connects, and that is all."""


def _half(client: socket.socket) -> None:
    client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")


def _huge(client: socket.socket) -> None:
    client.sendall(b"GET /" + b"x" * 60_000)


def _deaf(client: socket.socket) -> None:
    """It asks, and takes no answer."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("act", [_silent, _half, _huge, _deaf])
def test_clients_that_do_not_behave(
    serving: tuple[Metrics, int], act: Callable[[socket.socket], None]
) -> None:
    """However many there are, they cost few threads, and a scraper is served at once."""
    metrics, port = serving
    metrics.show(full_snapshot())
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            act(client)
        assert told(scrape(port)[1], "rumpx_progress_ratio") == 0.25
        wait_until(lambda: threading.active_count() <= before + 16, 10, "few threads are left")


def test_a_client_that_is_silent_is_ended(
    serving: tuple[Metrics, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rumpx.display.metrics._Handler.timeout", 0.2)
    _, port = serving
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        assert client.recv(100) == b""


def test_without_the_package(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError\n")
    program = textwrap.dedent(
        """\
        from rumpx.errors import UsageError
        from rumpx.display.metrics import Metrics
        try:
            Metrics(("127.0.0.1", 9121))
        except UsageError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "--metrics needs the package prometheus-client: pip install 'rumpx[metrics]'.\n"
    )


# --- a copy -------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_copy_is_scraped_while_it_runs(server: Callable[..., Server]) -> None:
    source, target = server("7.0", requirepass="geheim"), server("8.1", requirepass="geheim")
    fill_mixed(source, 3000, ttl_share=0)
    port = free_port()

    def copied_and_latencies() -> str:
        text = scrape(port)[1]
        copied = told(text, "rumpx_keys_total", outcome="copied") or 0
        sides = by_label(text, "rumpx_latency_seconds")
        return text if copied > 0 and {"source", "target"} == set(sides) else ""

    # At a rate, so that batches are small, and some are acknowledged before the copy is held.
    words = ("--metrics", f"127.0.0.1:{port}", "--job", "told", "--max-keys-per-sec", "3000")
    with Copying(source, target, *words) as copying:
        with copying.held_at(target, 500):
            # The coordinator moves: its next Snapshots say how far the workers had come.
            first = wait_until(copied_and_latencies, 30, "copied keys and latencies are told")
            names = {name: value for (name, _), value in samples_of(first).items()}
            assert told(first, "rumpx_state", state="copying") == 1
            assert 0 < names["rumpx_progress_ratio"] < 1
            assert names["rumpx_keys_expected"] == 3000
            assert names["rumpx_worker_memory_bytes"] > 1e6
            assert 'job_name="told"' in first
            assert "geheim" not in first
        done = copying.finish()
    assert done.counts["copied"] == 3000
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), 1):
        pass


def test_a_taken_port_is_told_before_anything_is_done(
    serving: tuple[Metrics, int], state_home: Path
) -> None:
    _, port = serving
    ends = ("--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:2")
    done = run_rumpx(*ends, "--metrics", str(port))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"rumpx: --metrics: cannot listen on 127.0.0.1:{port}")
    assert not state_home.exists()
