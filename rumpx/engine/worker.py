"""A worker process: takes batches from its channel, has its handler settle them, sends acks.

The main thread runs the handler's tasks one step at a time, so that all batches that it holds are
in flight together. A second thread only reads the channel: thus the coordinator's sends never wait
for a busy worker, and the channel's end is noticed even while the main thread waits for a server.
A worker whose coordinator has ended ends within about a second.

SIGINT, SIGTERM and SIGHUP are blocked by the coordinator before a worker starts, and by the worker
itself, in case a fork server of the calling program has started it: a Ctrl-C, or a terminal that
closes, reaches the whole process group, and only the coordinator decides on the reaction.

A worker keeps no state that matters: the batches that it held when it died are given out again.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import time
from typing import Final

from rumpx.errors import RumpxError
from rumpx.processes.channel import Channel, hung_up, receive, send
from rumpx.processes.forkserver import HELD_BACK, name_process
from rumpx.throttle.rates import Pacer
from rumpx.transfer.handler import Handler, Spec
from rumpx.transfer.messages import (
    FromWorker,
    Notice,
    Ready,
    Rest,
    Stop,
    ToWorker,
    Trouble,
)
from rumpx.transfer.runner import Budget, Runner

_GRACE_SECONDS: Final = 1.0
# Only beside a server, which has priority then: on two cores that both servers share with four
# workers, the source's other clients wait 10 ms (p99) instead of 15, at the same speed. Elsewhere
# niceness would only starve the copy beside other programs.
_NICENESS: Final = 10


def main(channel: Channel, spec: Spec, pacer: Pacer, writer: str) -> None:
    """Run the process.

    Args:
        channel: its end of the channel to the coordinator.
        spec: builds its handler.
        pacer: the rates of the run.
        writer: the name of its connections to the target; "" if it writes nothing.
    """
    name_process("rumpx-worker")
    if spec.beside_server:
        os.nice(_NICENESS)
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    gc.freeze()  # imported modules are never garbage: exempt them from collection
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    budget = Budget(spec.bytes_in_flight)
    if writer:
        spec = spec.writing_as(writer, lambda: not hung_up(channel))
    handler = spec.build(budget, pacer)
    runner = Runner(budget)
    try:
        handler.dial(spec.databases)
        _tell(channel, Ready())
        _work(inbox, channel, handler, runner)
    except RumpxError as error:
        _tell(channel, Trouble(error, handler.unfinished()))
    handler.close()


def _work(
    inbox: queue.SimpleQueue[ToWorker], channel: Channel, handler: Handler, runner: Runner
) -> None:
    stopping = False
    while True:
        delay = runner.delay()
        if stopping and delay is None:
            return
        if delay != 0.0 or not inbox.empty():
            try:
                message = inbox.get(timeout=delay)
            except queue.Empty:
                continue
            if isinstance(message, Stop):
                stopping = True
            elif isinstance(message, Rest):
                handler.close()
            else:
                runner.start(handler.settle(message))
            continue
        result = runner.step()
        if result is not None:
            _tell(channel, result)
        if streaming := handler.take_streaming():
            _tell(channel, streaming)
        for text in handler.take_notices():
            _tell(channel, Notice(text))


def _tell(channel: Channel, message: FromWorker) -> None:
    try:
        send(channel, message)
    except OSError:
        return  # the coordinator has ended, and _listen ends this process


def _listen(channel: Channel, inbox: queue.SimpleQueue[ToWorker]) -> None:
    try:
        while True:
            inbox.put(receive(channel))
    except (EOFError, OSError):
        inbox.put(Stop())
        time.sleep(_GRACE_SECONDS)
        os._exit(1)  # the main thread still waits for a server
