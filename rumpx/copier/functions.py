"""Function libraries: which of the source's are to be loaded on the target, and loading them.

Libraries keep to the conflict policy one by one, on each primary of the target. One that is there
with the same code is left as it is; of one with other code "replace" loads the source's, "skip"
keeps the target's, and "fail" (and "ask", which nothing has answered) refuses the copy. That is
decided and told before the first key, and decided anew when the keys are there, just before
FUNCTION LOAD; each library is loaded whole or not at all, and a run that goes on loads what is not
there yet.

Functions are called by their own names, which no two libraries of a server may share: that is
found out before the keys, too. Servers before 7.0 have no functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from rumpx.errors import Side, TargetUnusable, printable, unusable
from rumpx.servers.answers import misshapen
from rumpx.servers.replies import explain_refusal
from rumpx.servers.resp import Connection, Reply
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error

# Refused as a library only after all permissions.
_NO_LIBRARY: Final = b"x"


@dataclass(frozen=True, slots=True)
class Library:
    """One library, by name; its code and the names of its functions."""

    name: bytes
    code: bytes
    functions: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be done with libraries on one server, by `choose`.

    Attributes:
        load: those that it lacks, or that are to be replaced.
        equal, kept, differing: names of those that it has: with the same code; with other code,
            which stays; with other code, which ends the run.
        clashes: (function, the source's library, the target's library that has it, too).
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
    """Decide about the source's libraries on a server that has some."""
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
    """Decide about all libraries; the result is a sentence for the user.

    Raises:
        SourceUnusable, TargetUnusable: FUNCTION is refused; libraries or functions are in the way.
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
    """Decide as `plan_functions`, and load; the result is a sentence for the user, or "" where
    there was nothing to load, as has been told.

    Raises:
        SourceUnusable, TargetUnusable: also where the target does not take a library.
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
_TOO_OLD: Final = "The source has no functions: servers before 7.0 know none."


def _of_source(source: SideFacts) -> list[Library] | None:
    """Its libraries; None where it knows no functions at all."""
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
    """What to do on one primary of the target, which must allow it."""
    choice = choose(libraries, _libraries(_list(connection), "target", connection), policy)
    where = f"The target at {connection.name}"
    if choice.differing:
        raise TargetUnusable(
            f"{where} has {_named(choice.differing)} with other code. Choose by --on-conflict "
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
    if is_error(reply):
        raise TargetUnusable(
            f"The target at {connection.name} did not take the source's function library "
            f"{printable(library.name)}: {explain_refusal(reply, 'FUNCTION')}. All keys are there; "
            "mend that, and go on, or run without --functions."
        )


def _list(connection: Connection) -> Reply:
    return connection.call("FUNCTION", "LIST", "WITHCODE")


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
    """Names and values in turn."""
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
