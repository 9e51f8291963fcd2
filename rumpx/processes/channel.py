"""Messages over a pipe between the coordinator and one worker.

Plain pickle, not `multiprocessing`'s own pickler, which copies a table of reducers for each
message: 10 µs that a coordinator pays thousands of times a second.
"""

from __future__ import annotations

import pickle
import select
from multiprocessing.connection import Connection as Channel
from typing import Any

__all__ = ["Channel", "hung_up", "receive", "send"]


def send(channel: Channel, message: object) -> None:
    """Send a message.

    Raises:
        OSError: the other end is closed.
    """
    channel.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def receive(channel: Channel) -> Any:
    """Wait for the next message.

    Raises:
        EOFError, OSError: the other end is closed.
    """
    return pickle.loads(channel.recv_bytes())


def hung_up(channel: Channel) -> bool:
    """Return True if the other end is closed, without reading."""
    poll = select.poll()
    poll.register(channel.fileno(), 0)
    return bool(poll.poll(0))
