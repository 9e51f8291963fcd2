"""The worker processes of this host, and the batches that each of them holds.

Each worker has a channel of its own (a pipe whose other end only it holds): no lock is shared that
a dead process could keep, and a death reads as the end of the channel. The pool keeps each batch
until its ack; if its worker dies, the batch is given out again, and the worker is replaced.

A batch of a dead worker is *suspect*: it is given out alone, to a worker that holds nothing else,
so that the next death names the culprit. A batch that killed `DEATHS` workers is set aside: its
keys have failed. The death of a worker that held several batches, or had not started, proves
nothing against any of them, and acquits those that were blamed before: its cause may have killed
the others as well.

If workers write, the batches of a dead one, also one to set aside, wait until its connections to
the target have ended (`fence`), so that none of its writes is executed after a newer one.

Not promised: that the work of a dead worker is not done twice. RESTORE can be repeated.
"""

from __future__ import annotations

import selectors
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.process import BaseProcess
from typing import Final

import psutil

from rumpx.engine import worker
from rumpx.errors import RumpxError
from rumpx.model.counts import Counts
from rumpx.model.results import KeyFailure
from rumpx.model.snapshot import WorkerStat
from rumpx.processes.channel import Channel, receive, send
from rumpx.processes.forkserver import process_context, signals_blocked
from rumpx.throttle.rates import Throttle
from rumpx.transfer.handler import Spec
from rumpx.transfer.messages import Ack, Batch, FromWorker, Left, Ready, Rest, Stop

DEATHS: Final = 3
# Workers that die without a single ack between them: not a batch's fault.
_HOPELESS_DEATHS: Final = 20
_LEAVE_SECONDS: Final = 5.0


@dataclass(eq=False, slots=True)
class _Worker:
    process: BaseProcess
    channel: Channel
    usage: psutil.Process
    writer: str
    held: dict[int, Batch] = field(default_factory=dict)
    awake: bool = False  # has started, and so may have touched what it holds
    examined: bool = False  # holds a suspect, so it gets nothing else


class Pool:
    """The workers of this host.

    Args:
        spec: sent to each worker.
        credits: the most batches that one worker may hold.
        writer: the beginning of the names of the workers' connections to the target; "" if they
            write nothing.

    Attributes:
        pacer: the rates, in memory that all processes of this host share.
        restarts, dropped: as in Backend.
    """

    def __init__(self, spec: Spec, credits: int, writer: str) -> None:
        self.pacer = Throttle()
        self.restarts = 0
        self.dropped = False
        self._spec = spec
        self._credits = credits
        self._writer = writer
        self._selector: selectors.BaseSelector
        self._announce: Callable[[str], None]
        self._buried: Callable[[str], None]
        self._post: Callable[[Ack], None]
        self._numbers = count()
        self._fenced_off: dict[str, list[Batch]] = {}
        self._suspects: deque[Batch] = deque()
        self._deaths: dict[int, int] = {}
        self._deaths_since_ack = 0
        self._closing = False
        self._workers: list[_Worker] = []

    def start_workers(
        self,
        workers: int,
        selector: selectors.BaseSelector,
        announce: Callable[[str], None],
        buried: Callable[[str], None],
        post: Callable[[Ack], None],
    ) -> None:
        """Start workers.

        Args:
            selector: gets each worker's channel, with the argument of `receive` as its data.
            announce, buried: as in `backend.Hooks`.
            post: takes the acks of batches that are set aside.
        """
        self._selector = selector
        self._announce = announce
        self._buried = buried
        self._post = post
        for _ in range(workers):
            self._workers.append(self._start_worker())

    @property
    def awake(self) -> bool:
        """True if all workers have started."""
        return all(member.awake for member in self._workers)

    @property
    def in_flight(self) -> int:
        """The number of batches that are not settled: held by workers, held by dead ones that are
        not fenced yet, or suspect."""
        held = sum(len(member.held) for member in self._workers)
        return held + sum(map(len, self._fenced_off.values())) + len(self._suspects)

    def dispatch(self, take: Callable[[], Batch | None], workers: int) -> None:
        """Give out batches while workers have credit: suspects first, to any of them, then those
        that `take` returns, each to the one of the first `workers` that holds the fewest."""
        self._examine()
        while (member := self._hungriest(workers)) and (batch := take()):
            self._send(member, batch)

    def takes_more(self, workers: int) -> bool:
        """Return True if one of the first `workers` may hold one more batch."""
        return self._hungriest(workers) is not None

    def _hungriest(self, workers: int) -> _Worker | None:
        able = [m for m in self._workers if not m.examined][:workers]
        free = [m for m in able if len(m.held) < self._credits]
        return min(free, key=lambda member: len(member.held), default=None)

    def _examine(self) -> None:
        for member in self._workers:
            if self._suspects and not member.held:
                member.examined = True
                self._send(member, self._suspects.popleft())

    def _send(self, member: _Worker, batch: Batch) -> None:
        member.held[batch.id] = batch
        try:
            send(member.channel, batch)
        except OSError:
            return  # it has died; `receive` will notice, and repeat the batch

    def receive(self, member: _Worker) -> Iterator[FromWorker]:
        """Yield the next message of a worker whose channel is readable, if it lives.

        Raises:
            RumpxError: workers die as soon as they start.
        """
        try:
            message: FromWorker = receive(member.channel)
        except (EOFError, OSError):
            self._bury(member)
            return
        if isinstance(message, Ack):
            self._settled(member, message)
        elif isinstance(message, Left):
            member.held.pop(message.batch, None)
        if isinstance(message, Ready):
            member.awake = True
        else:
            yield message

    def _settled(self, member: _Worker, ack: Ack) -> None:
        member.held.pop(ack.batch, None)
        member.examined = False
        self._deaths.pop(ack.batch, None)
        self._deaths_since_ack = 0

    def _bury(self, member: _Worker) -> None:
        """Replace a dead worker, and blame its batches."""
        self._discard(member)
        member.process.join(_LEAVE_SECONDS)
        if member.process.is_alive():
            member.process.kill()  # no message can reach it
            member.process.join()
        if self._closing:
            self.dropped |= bool(member.held)
            return
        self._deaths_since_ack += 1
        if self._deaths_since_ack > _HOPELESS_DEATHS:
            raise RumpxError(
                f"Worker processes die as soon as they start ({_ending(member.process)}); the "
                "machine may be out of memory. Try fewer --workers."
            )
        self.restarts += 1
        self._announce(
            f"Worker {member.process.pid} died ({_ending(member.process)}); it is replaced and "
            f"its {len(member.held)} batches are repeated."
        )
        # Only a batch that the worker held alone, once it had started, is certainly to blame.
        certain = member.awake and len(member.held) == 1
        if not certain:
            self._deaths.clear()  # workers die whatever they hold: that proves nothing
        for number in member.held:
            self._deaths[number] = self._deaths.get(number, 0) + certain
        self._workers.append(self._start_worker())
        held = list(member.held.values())
        if self._writer:
            self._fenced_off[member.writer] = held
            self._buried(member.writer)
        else:
            self._judge(held)

    def fenced(self, writer: str) -> list[Batch]:
        """Repeat a dead worker's batches from now on, or set them aside, since its connections have
        ended as far as they can be; return those that are repeated."""
        return self._judge(self._fenced_off.pop(writer, []))

    def _judge(self, batches: list[Batch]) -> list[Batch]:
        """Set the batches aside that killed too many workers; return the others, now suspect."""
        suspects = []
        for batch in batches:
            if self._deaths.get(batch.id, 0) < DEATHS:
                suspects.append(batch)
            else:
                del self._deaths[batch.id]
                self._post(_set_aside(batch))
        self._suspects += suspects
        return suspects

    def _start_worker(self) -> _Worker:
        context = process_context()
        ours, theirs = context.Pipe()
        writer = f"{self._writer}.{next(self._numbers)}" if self._writer else ""
        process = context.Process(
            target=worker.main,
            args=(theirs, self._spec, self.pacer, writer),
            name="rumpx worker",
            daemon=True,
        )
        with signals_blocked():
            process.start()
        theirs.close()  # else the channel would never end, since its other end would be open here
        assert process.pid is not None
        member = _Worker(process, ours, psutil.Process(process.pid), writer)
        self._selector.register(ours, selectors.EVENT_READ, member)
        return member

    def _discard(self, member: _Worker) -> None:
        self._workers.remove(member)
        self._selector.unregister(member.channel)
        member.channel.close()

    def stats(self) -> tuple[WorkerStat, ...]:
        """Return CPU (since the last call) and memory of the live workers."""
        return tuple(stat for member in self._workers if (stat := _stat(member)))

    def rest(self) -> None:
        """Have workers, which must be idle, close their connections until there is work again."""
        for member in self._workers:
            with suppress(OSError):  # it has died: `receive` will notice
                send(member.channel, Rest())

    def close(self) -> None:
        """Wait for acks only: replace no dead worker from now on, and repeat no work."""
        self._closing = True
        self.dropped = bool(self._suspects or self._fenced_off)
        self._suspects.clear()
        self._fenced_off.clear()

    def stop(self) -> None:
        """Let idle workers end by themselves, kill those that do not, free the shared memory."""
        for member in self._workers:
            try:
                send(member.channel, Stop())
            except OSError:
                continue
        for member in list(self._workers):
            member.process.join(_LEAVE_SECONDS)
            self._kill(member)
        self.pacer.close()

    def kill(self) -> None:
        """Kill all workers, and free the shared memory."""
        for member in self._workers:
            member.process.kill()
        for member in list(self._workers):
            self._kill(member)
        self.pacer.close()

    def _kill(self, member: _Worker) -> None:
        if member.process.is_alive():
            member.process.kill()
        member.process.join()
        self._discard(member)


def _set_aside(batch: Batch) -> Ack:
    message = f"its batch killed {DEATHS} worker processes"
    return Ack(
        batch.id,
        Counts(failed=len(batch.keys)),
        tuple(KeyFailure(batch.db, key, "killed workers", message) for key in batch.keys),
    )


def _ending(process: BaseProcess) -> str:
    code = process.exitcode
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"


def _stat(member: _Worker) -> WorkerStat | None:
    try:
        with member.usage.oneshot():
            return WorkerStat(
                member.process.pid or 0,
                member.usage.cpu_percent(),
                member.usage.memory_info().rss,
                len(member.held),
            )
    except psutil.Error:
        return None  # it has just died
