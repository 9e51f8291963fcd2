"""Time a request until the kernel has its reply, however late this process is woken.

On a busy machine a process gets the CPU some milliseconds after its reply has arrived, which says
nothing about the server. Linux notes when each packet arrived (SO_TIMESTAMPING, software receive
stamps; also on loopback and in containers). The stamp is read by a peek at the reply's first byte,
through a duplicate of the socket's descriptor: so plain TCP and TLS are timed alike.

Stamps are of the wall clock. A sample is dropped if that clock moved, against the monotonic one, by
more than a millisecond meanwhile. If there is no stamp, as on a unix socket, on other systems, and
for the first packets while the kernel turns them on, the time of waking counts.

Not promised: the time of sending. It is read just before, and the process may lose the CPU there.

Source: https://docs.kernel.org/networking/timestamping.html
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from typing import Final

# Of <asm-generic/socket.h> and <linux/net_tstamp.h>; the socket module does not name them.
_SO_TIMESTAMPING: Final = 37
_RX_SOFTWARE: Final = 1 << 3
_SOFTWARE: Final = 1 << 4
# Three timespecs; the first is the software stamp.
_STAMPS: Final = struct.Struct("@6l")
_CLOCK_STEP: Final = 0.001


class Stopwatch:
    """Times one request at a time.

    Args:
        sock: connected; its requests are sent between `start` and `wait`.

    Attributes:
        sent: `time.monotonic()` of the last start.
        took: seconds from the start to the reply's arrival; None if the clock was set meanwhile.
    """

    def __init__(self, sock: socket.socket) -> None:
        # Shares O_NONBLOCK with `sock`, so it never gets a timeout.
        self._sock = socket.socket(fileno=os.dup(sock.fileno()))
        self.sent = 0.0
        self.took: float | None = None
        self._wall = 0.0
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # no stamps for this kind of socket
                self._sock.setsockopt(
                    socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE
                )

    def start(self) -> None:
        """Start the time, right before the request is sent."""
        self.sent = time.monotonic()
        self._wall = time.time()

    def wait(self, seconds: float | None) -> bool:
        """Wait for the reply, at most so long (None: for ever), and set `took`; return False if it
        has not arrived."""
        if not self._readable(seconds):
            return False
        stamp = self._stamp()
        woken, wall = time.monotonic(), time.time()
        self.took = woken - self.sent
        if abs((wall - woken) - (self._wall - self.sent)) > _CLOCK_STEP:
            self.took = None
        elif stamp is not None and self._wall <= stamp:
            self.took = min(self.took, stamp - self._wall)
        return True

    def arrived(self) -> bool:
        """Return True if there are bytes to receive now, or the connection has ended; may be asked
        in another thread."""
        return self._readable(0.0)

    def _readable(self, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(None if seconds is None else 1000 * seconds))

    def _stamp(self) -> float | None:
        """Return the wall clock's time at which the first byte arrived; None if unknown."""
        try:
            _, ancillary, _, _ = self._sock.recvmsg(
                1, socket.CMSG_SPACE(_STAMPS.size), socket.MSG_PEEK | socket.MSG_DONTWAIT
            )
        except OSError:
            return None  # the connection has ended: the receive reports it
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPING):
                seconds, nanoseconds = _STAMPS.unpack(data[: _STAMPS.size])[:2]
                return float(seconds + nanoseconds / 1e9) if seconds else None
        return None

    def close(self) -> None:
        """Close the duplicate."""
        self._sock.close()
