"""Copy function libraries: choose those to load on the target, and load them.

The conflict policy applies to each library, on each primary of the target. A library with the same
code stays as it is; if its code differs, "replace" loads the source's, "skip" keeps the target's,
and "fail" (and "ask", if it was not answered) refuses the copy. The choice is made and shown before
the first key, and made again after the last one, just before FUNCTION LOAD. Each library is loaded
whole or not at all, and a resumed run loads those that are missing.

Functions are called by their own names, which no two libraries of a server may share: a clash is
detected before the first key, too. Servers before 7.0 have no functions.

A server that cannot serve FUNCTION now raises TemporaryError: ask again in a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from rumpx.errors import Side, TargetUnusable, TemporaryError, printable, unusable
from rumpx.servers.answers import misshapen
from rumpx.servers.replies import Kind, classify, explain_refusal, out_of_memory
from rumpx.servers.resp import Connection, Reply
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error

# The server refuses it as a library, but only after it has checked the permissions.
_NO_LIBRARY: Final = b"x"


@dataclass(frozen=True, slots=True)
class Library:
    """One library: its name, its code, and the names of its functions."""

    name: bytes
    code: bytes
    functions: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Choice:
    """The decision about the source's libraries on one server, by `choose`.

    Attributes:
        load: those to load: the server lacks them, or has other code that is replaced.
        equal, kept, differing: names of those that it has: with the same code; with other code,
            which stays; with other code, which ends the run.
        clashes: (function, the source's library, the target's library that has it too).
    """

    load: tuple[Library, ...] = ()
    equal: tuple[bytes, ...] = ()
    kept: tuple[bytes, ...] = ()
    differing: tuple[bytes, ...] = ()
    clashes: tuple[tuple[bytes, bytes, bytes], ...] = ()


@dataclass(slots=True)
class _Told:
    """Names of libraries over all primaries, in order."""

    load: dict[bytes, None] = field(default_factory=dict)
    equal: dict[bytes, None] = field(default_factory=dict)
    kept: dict[bytes, None] = field(default_factory=dict)

    def add(self, choice: Choice) -> None:
        self.load |= dict.fromkeys(library.name for library in choice.load)
        self.equal |= dict.fromkeys(choice.equal)
        self.kept |= dict.fromkeys(choice.kept)


def choose(
    ours: Sequence[Library],
    theirs: Iterable[Library],
    policy: Literal["ask", "replace", "skip", "fail"],
) -> Choice:
    """Decide about the source's libraries on one server.

    Args:
        ours: the source's.
        theirs: the server's.
        policy: for libraries that both have, with different code.
    """
    there = {library.name: library for library in theirs}
    load, equal, kept, differing = [], [], [], []
    for library in ours:
        other = there.get(library.name)
        if other is None or (policy == "replace" and other.code != library.code):
            load.append(library)
        elif other.code == library.code:
            equal.append(library.name)
        elif policy == "skip":
            kept.append(library.name)
        else:
            differing.append(library.name)
    names = {library.name for library in load}
    staying = {
        function: library.name
        for library in there.values()
        if library.name not in names
        for function in library.functions
    }
    clashes = [
        (function, library.name, staying[function])
        for library in load
        for function in sorted(library.functions & staying.keys())
    ]
    return Choice(tuple(load), tuple(equal), tuple(kept), tuple(differing), tuple(clashes))


def plan_functions(
    source: SideFacts, target: SideFacts, policy: Literal["ask", "replace", "skip", "fail"]
) -> str:
    """Decide about all libraries, and return the decision as a sentence for the user.

    Raises:
        SourceUnusable, TargetUnusable: FUNCTION is refused; or libraries or functions clash.
        TemporaryError: a side cannot serve it now.
    """
    libraries = _of_source(source)
    if not libraries:
        return _NONE if libraries is not None else _TOO_OLD
    told = _Told()
    for node in target.topology_now().nodes:
        with connected(target.dialer, node.address) as connection:
            told.add(_decided(connection, libraries, policy))
    return _sentence(told, "Will copy")


def copy_functions(
    source: SideFacts, target: SideFacts, policy: Literal["ask", "replace", "skip", "fail"]
) -> str:
    """Decide as `plan_functions`, load, and return the result as a sentence for the user; "" if
    there was nothing to load.

    Raises:
        SourceUnusable, TargetUnusable: as `plan_functions`; or the target rejects a library.
        TemporaryError: a side cannot serve it now, the target has no memory for it (TargetFull).
    """
    libraries = _of_source(source)
    if not libraries:
        return ""
    told = _Told()
    for node in target.topology_now().nodes:
        with connected(target.dialer, node.address) as connection:
            choice = _decided(connection, libraries, policy)
            for library in choice.load:
                _load(connection, library, replace=policy == "replace")
            told.add(choice)
    return _sentence(told, "Copied") if told.load else ""


_NONE: Final = "The source has no functions."
_TOO_OLD: Final = "The source has no functions: servers before 7.0 do not support them."


def _of_source(source: SideFacts) -> list[Library] | None:
    """Return the source's libraries; None if it does not support functions."""
    with connected(source.dialer, source.topology_now().nodes[0].address) as connection:
        reply = _list(connection)
        if is_error(reply) and "unknown" in str(reply).lower():
            return None
        return _libraries(reply, "source", connection)


def _decided(
    connection: Connection,
    libraries: Sequence[Library],
    policy: Literal["ask", "replace", "skip", "fail"],
) -> Choice:
    """Return the decision for one primary of the target.

    Raises:
        TargetUnusable: it does not allow that.
    """
    choice = choose(libraries, _libraries(_list(connection), "target", connection), policy)
    where = f"The target at {connection.name}"
    if choice.differing:
        raise TargetUnusable(
            f"{where} has {_named(choice.differing)} with other code. Choose with --on-conflict "
            "replace (load the source's) or skip (keep the target's), or run without --functions."
        )
    if choice.clashes:
        function, ours, theirs = map(printable, choice.clashes[0])
        raise TargetUnusable(
            f"{where} has a function {function} in its library {theirs}, so the source's library "
            f"{ours}, which has a function of that name, cannot be loaded. Delete one of the two "
            "libraries, or run without --functions."
        )
    if choice.load:
        reply = connection.call("FUNCTION", "LOAD", _NO_LIBRARY)
        if str(reply).startswith("NOPERM"):
            raise TargetUnusable(
                f"{where} refuses FUNCTION LOAD: {explain_refusal(reply, 'FUNCTION')}."
            )
    return choice


def _load(connection: Connection, library: Library, *, replace: bool) -> None:
    options = ["REPLACE"] if replace else []
    reply = connection.call("FUNCTION", "LOAD", *options, library.code)
    _raise_passing(connection, "LOAD", reply)
    if is_error(reply):
        raise TargetUnusable(
            f"The target at {connection.name} rejected the source's function library "
            f"{printable(library.name)}: {explain_refusal(reply, 'FUNCTION')}. All keys are "
            "copied: fix the cause, then resume, or run without --functions."
        )


def _list(connection: Connection) -> Reply:
    reply = connection.call("FUNCTION", "LIST", "WITHCODE")
    _raise_passing(connection, "LIST", reply)
    return reply


def _raise_passing(connection: Connection, what: str, reply: Reply) -> None:
    """Raise if a server refuses a subcommand of FUNCTION for a reason that may pass."""
    if not is_error(reply):
        return
    kind = classify(reply).kind
    if kind is Kind.FULL:
        raise out_of_memory(connection.name, reply)
    if kind is Kind.TEMPORARY:
        raise TemporaryError(
            f"The {connection.side} at {connection.name} refuses FUNCTION {what} now: {reply!s}."
        )


def _libraries(reply: Reply, side: Side, connection: Connection) -> list[Library]:
    if is_error(reply):
        raise unusable(side)(
            f"The functions of the {side} at {connection.name} cannot be read: "
            f"{explain_refusal(reply, 'FUNCTION')}. Run without --functions."
        )
    try:
        return [_library(_fields(each)) for each in _listed(reply)]
    except (TypeError, ValueError, KeyError):
        raise misshapen(connection, "FUNCTION LIST") from None


def _library(fields: dict[bytes, Reply]) -> Library:
    names = [_fields(function)[b"name"] for function in _listed(fields[b"functions"])]
    told = fields[b"library_name"], fields[b"library_code"], *names
    name, code, *functions = (_word(reply) for reply in told)
    return Library(name, code, frozenset(functions))


def _fields(reply: Reply) -> dict[bytes, Reply]:
    """Return a dict of a flat list of names and values."""
    parts = _listed(reply)
    return dict(zip(map(_word, parts[0::2]), parts[1::2], strict=True))


def _listed(reply: Reply) -> list[Reply]:
    if not isinstance(reply, list):
        raise TypeError
    return reply


def _word(reply: Reply) -> bytes:
    if not isinstance(reply, bytes):
        raise TypeError
    return reply


def _named(names: Iterable[bytes]) -> str:
    shown = list(map(printable, names))
    plural = "y" if len(shown) == 1 else "ies"
    return f"function librar{plural} {', '.join(shown)}"


def _sentence(told: _Told, verb: str) -> str:
    parts = []
    if told.load:
        one = len(told.load) == 1
        plural = "library" if one else "libraries"
        names = ", ".join(map(printable, told.load))
        parts.append(f"{verb} {len(told.load)} function {plural} ({names}).")
    if equal := [name for name in told.equal if name not in told.load]:
        parts.append(f"The target has {_named(equal)} already.")
    if told.kept:
        parts.append(f"The target keeps its own {_named(told.kept)} (--on-conflict skip).")
    return " ".join(parts)
