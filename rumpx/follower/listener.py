"""All that tells about changes of the source: the feed, and the watches of both sides.

Threads put their events into a queue; `hear` handles them in the engine's thread, and returns why
events may have been lost, if they may.

A feed that does not answer, whose server is another one, or that tells nothing while keys are
changed, is ended. One that the source does not allow any more is done without: one pass follows the
other then.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from rumpx.engine.engine import Engine
from rumpx.engine.filters import name_tests
from rumpx.engine.plan import Plan
from rumpx.errors import Side
from rumpx.follower.dirty_keys import DirtyKeys
from rumpx.follower.feed import Feed, FeedEnded, FeedRefused, Flushed, feed_name
from rumpx.follower.feed_choice import MANNERS
from rumpx.follower.plan import patiently
from rumpx.follower.quiet import Heard
from rumpx.follower.streams import StreamNames
from rumpx.follower.watch import (
    Blind,
    Emptied,
    FunctionsChanged,
    GroupsChanged,
    Keyspace,
    Mute,
    OtherServer,
    Seen,
    Swapped,
    Watch,
    Wrote,
)

# Writes of commands that always change a key, and not one name, for so many seconds.
_SILENT_SECONDS: Final = 10.0


class Listener:
    """Listens to both sides.

    Args:
        plan: the run's plan.
        mark: of the job.
        engine: asks, and warns; its walks start with the processes that answer.
        dirty: gets the names.
        wake: wakes the engine, from any thread.

    Attributes:
        kind: of the feed.
        feed: while one is attached.
        identity: of the source's process and data, as last seen; "" if unknown.
        found: the source's databases that have held keys.
        functions_changed: functions of the source may have changed; set to False once they are
            copied.
        streams: the source's streams.
        heard: receives the names, too, while a cutover listens.
    """

    def __init__(
        self,
        plan: Plan,
        mark: str,
        engine: Engine,
        dirty: DirtyKeys,
        wake: Callable[[], None],
    ) -> None:
        self.kind = plan.feed
        self.feed: Feed | None = None
        self.identity = ""
        self.found: set[int] = set()
        self.functions_changed = plan.job.functions
        self.streams = StreamNames()
        self.heard: Heard | None = None
        self._plan = plan
        self._mark = mark
        self._engine = engine
        self._dirty = dirty
        self._wake = wake
        self._tests = name_tests(plan.spec.scope)
        source, target = plan.source.dialer, plan.target.dialer
        notifies = self.kind == "notifications"
        self._source_watch = Watch(source, feed_name(mark), self._tell, notifications=notifies)
        self._target_watch = Watch(target, "", self._tell)
        self._learnt_at = -math.inf
        self._events: deque[Seen | FeedEnded | Flushed] = deque()
        self._wrote: tuple[float, int] | None = None

    def watch(self) -> None:
        """Start to watch both sides."""
        self._source_watch.start()
        self._target_watch.start()

    @property
    def watches(self) -> bool:
        """True if the source's process is watched: a pass that began earlier could compare streams
        before a change that the first look does not show as one."""
        watch = self._source_watch
        return watch.looked > -math.inf and watch.process == self.process

    @property
    def has_looked(self) -> bool:
        """True if the source was looked at since its process was learnt, or is watched anyway."""
        return self.watches or self._source_watch.looked > self._learnt_at

    @property
    def proven(self) -> float:
        """The moment (`time.monotonic()`) before which nothing can have been missed but what the
        events that are not heard yet tell; -inf without a feed."""
        return min(self.feed.proven, self.looked) if self.feed else -math.inf

    @property
    def silent(self) -> Side | None:
        """The side that could not be looked at for longer than `--timeout`; None if both could."""
        now, longest = time.monotonic(), self._plan.job.timeout
        if self._source_watch.silent_for(now) > longest:
            return "source"
        return "target" if self._target_watch.silent_for(now) > longest else None

    @property
    def looked(self) -> float:
        """The moment since which both sides were looked at; -inf before."""
        return min(self._source_watch.looked, self._target_watch.looked)

    def close(self) -> None:
        """End all."""
        self._source_watch.close()
        self._target_watch.close()
        self._drop_feed()

    # The feed.

    def attach(self) -> None:
        """Attach a feed, if there is to be one and none is attached.

        Raises:
            Interrupted, RumpxError: see `Engine.ask`.
        """
        if self.kind == "passes" or self.feed:
            return
        engine, name = self._engine, feed_name(self._mark)
        manner, dialer = MANNERS[self.kind], self._plan.source.dialer
        scope = self._plan.spec.scope

        def attach() -> Feed | FeedRefused:
            try:
                return Feed(manner, dialer, name, scope, self._take, self._tell)
            except FeedRefused as error:
                return error

        engine.note = "attaching the feed"
        found = engine.ask(attach)
        engine.note = ""
        if isinstance(found, FeedRefused):
            self.kind = "passes"
            engine.warn(
                f"The source does not report changed keys any more: {found}. Changes are found by "
                "passes instead."
            )
            return
        self.feed = found
        found.start()

    def learn_process(self) -> bool:
        """Learn which process the source is now; return True if it is another one than before, or
        unknown: a source that has restarted, or a replica that was loaded anew, may have lost its
        keys."""
        source = self._plan.source
        node = source.topology.nodes[0]
        identity = self._engine.ask(patiently(lambda: source.identity_now(node)))
        self._engine.note = ""
        self._learnt_at = time.monotonic()
        before, self.identity = self.identity, identity
        if self.feed and self.feed.process != self.process:
            self._drop_feed()
        self._engine.run_ids["source", node.address] = identity
        return identity != before or not identity

    @property
    def process(self) -> str:
        """The `run_id` of the source's process, as last seen; "" if unknown."""
        return self.identity.partition(":")[0]

    def _drop_feed(self) -> None:
        if self.feed:
            self.feed.close()
            self.feed = None

    def _take(self, names: list[bytes]) -> None:
        """Take names from the feed, in its thread."""
        for test in self._tests:
            names = [name for name in names if test(name)]
        if self._dirty.mark(names, time.monotonic()):
            self._wake()
        if heard := self.heard:
            heard.add(names)

    def _tell(self, event: Seen | FeedEnded | Flushed) -> None:
        """Take an event, from any thread."""
        self._events.append(event)
        self._wake()

    # Events.

    def hear(self) -> list[str]:
        """Handle the events so far; return why changes may have been missed."""
        reasons: list[str] = []
        while self._events:
            if why := self._heed(self._events.popleft()):
                reasons.append(why)
        return reasons

    def _heed(self, event: Seen | FeedEnded | Flushed) -> str:
        match event:
            case FeedEnded():
                if self.feed and event.process == self.feed.process:
                    self._drop_feed()
                    return f"the feed was lost: {event.why}"
            case Flushed():
                return "the source was flushed or loaded its data anew"
            case OtherServer():
                return self._other_server(event)
            case Swapped():
                return "databases of the source were swapped"
            case Emptied() if self.kind == "notifications":
                return "databases of the source were emptied"
            case Mute() if self.kind == "notifications":
                return self._distrust("its keyspace notifications were switched off")
            case Wrote():
                return self._check_silence(event)
            case GroupsChanged():
                self.streams.changed()
                if self.streams.too_many:
                    return "consumer groups of more streams changed than are remembered"
            case FunctionsChanged():
                self.functions_changed = True
            case Keyspace():
                self.found |= event.databases
            case Blind():
                self._warn_of_blindness(event.side)
        return ""

    def _other_server(self, event: OtherServer) -> str:
        """Handle another process, or another role of one."""
        if event.side == "source":
            if event.other and self.feed and event.run_id == self.feed.process:
                return ""  # the feed leads to it already
            self._drop_feed()
        self._answers(event.side, event.run_id)
        return event.why

    def _answers(self, side: Side, run_id: str) -> None:
        """Note which process answers for a side, so that walks start with it."""
        facts = self._plan.source if side == "source" else self._plan.target
        self._engine.run_ids[side, facts.topology.nodes[0].address] = run_id

    def _check_silence(self, event: Wrote) -> str:
        """Stop to believe a feed that tells nothing while keys are changed."""
        if not self.feed or self._tests:
            return ""
        marked = self._dirty.marked
        if not event.calls or (self._wrote and self._wrote[1] != marked):
            self._wrote = None
        if event.calls and self._wrote is None:
            self._wrote = event.since, marked
        if self._wrote and time.monotonic() - self._wrote[0] > _SILENT_SECONDS:
            return self._distrust("it reported no changed key while it executed writes")
        return ""

    def _distrust(self, why: str) -> str:
        """Do without a feed from now on; return the reason."""
        self._drop_feed()
        self.kind, self._wrote = "passes", None
        self._engine.warn(
            f"The source's feed is not believed any more, since {why}: changes are found by passes."
        )
        return why

    def _warn_of_blindness(self, side: Side) -> None:
        text = (
            f"The {side} refuses INFO or INFO commandstats: changes of consumer groups, SWAPDB and "
            "changes of functions there are not noticed, only found by a later pass."
        )
        if text not in self._engine.warnings:
            self._engine.warn(text)
