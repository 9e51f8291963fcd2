"""Classify error replies: one table from the server's words to the next action of a copy.

`classify` is pure. The words are from the servers' sources (Redis 6.2 to 8, Valkey 8 and 9). Those
of ACL refusals differ between versions, so `explain_refusal` searches for the quoted command, not
for a sentence.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from rumpx.errors import ConnectionLost, RumpxError, Side, TargetFull, TemporaryError, unusable
from rumpx.model.endpoint import Address
from rumpx.servers.tls import flag_of


class Kind(enum.Enum):
    """The action of a copy after an error reply."""

    TEMPORARY = "back off, rediscover, repeat the key"
    MOVED = "refresh the slot map, repeat the key there"
    ASK = "repeat the key there, once, after ASKING"
    FULL = "drain and stop: the target is out of memory"
    BUSY_KEY = "the conflict policy decides"
    KEY = "this key failed; continue"
    PERMANENT = "stop: it would fail for every key"
    ABORTED = "a MULTI group was refused whole: repeat it without MULTI"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is the short class of reasons by which summaries count."""

    kind: Kind
    reason: str


_BY_CODE: Final = {
    "LOADING": Verdict(Kind.TEMPORARY, "loading"),
    "CLUSTERDOWN": Verdict(Kind.TEMPORARY, "cluster down"),
    "TRYAGAIN": Verdict(Kind.TEMPORARY, "slot in migration"),
    "MASTERDOWN": Verdict(Kind.TEMPORARY, "primary down"),
    "READONLY": Verdict(Kind.TEMPORARY, "read-only replica"),
    "NOREPLICAS": Verdict(Kind.TEMPORARY, "not enough replicas"),
    "BUSY": Verdict(Kind.TEMPORARY, "busy with a script"),
    "MISCONF": Verdict(Kind.TEMPORARY, "writes stopped: the server cannot save"),
    "UNBLOCKED": Verdict(Kind.TEMPORARY, "failover"),
    "MOVED": Verdict(Kind.MOVED, "slot moved"),
    "ASK": Verdict(Kind.ASK, "slot in migration"),
    "OOM": Verdict(Kind.FULL, "out of memory"),
    "BUSYKEY": Verdict(Kind.BUSY_KEY, "busy key"),
    "EXECABORT": Verdict(Kind.ABORTED, "group refused"),
    "NOAUTH": Verdict(Kind.PERMANENT, "no password"),
    "WRONGPASS": Verdict(Kind.PERMANENT, "wrong password"),
    "DENIED": Verdict(Kind.PERMANENT, "denied"),
    "CROSSSLOT": Verdict(Kind.ABORTED, "sharded behind one address"),
}

# A redirection without an address; the node may have one in a moment.
_LOST_WAY: Final = Verdict(Kind.TEMPORARY, "redirection without an address")
# The words of proxies (envoy; Codis) that forward only some commands.
_PROXY: Final = Verdict(Kind.PERMANENT, "a proxy")
# Replies that say why a server closes a connection.
_FAREWELL_CODES: Final = ("LOADING", "NOAUTH", "WRONGPASS", "DENIED")
_FAREWELL_WORDS: Final = ("protocol error", "max number of clients")

_BY_WORDS: Final = (
    ("max number of clients", Verdict(Kind.TEMPORARY, "too many clients")),
    ("unauthenticated", Verdict(Kind.PERMANENT, "no password")),
    ("protocol error", Verdict(Kind.KEY, "protocol error")),
    ("payload version or checksum are wrong", Verdict(Kind.KEY, "bad payload")),
    ("bad data format", Verdict(Kind.KEY, "bad data")),
    ("unknown command", Verdict(Kind.PERMANENT, "unknown command")),
    ("unknown subcommand", Verdict(Kind.PERMANENT, "unknown command")),
    ("syntax error", Verdict(Kind.PERMANENT, "syntax error")),
    ("wrong number of arguments", Verdict(Kind.PERMANENT, "syntax error")),
    ("unsupported command", _PROXY),
    ("invalid request", _PROXY),
    ("' is not allowed", _PROXY),
    ("not supported by proxy", _PROXY),
    ("no upstream host", Verdict(Kind.TEMPORARY, "proxy without a server")),
    ("db index is out of range", Verdict(Kind.PERMANENT, "no such database")),
)


def classify(error: object) -> Verdict:
    """Return the verdict on an error reply (or its text) for the key that it answers."""
    text = str(error)
    code = text.partition(" ")[0]
    if code == "NOPERM":
        about_key = "key" in text.lower() and "command" not in text.lower()
        return Verdict(Kind.KEY if about_key else Kind.PERMANENT, "no permission")
    if code in ("MOVED", "ASK") and redirection(text) is None:
        return _LOST_WAY
    if code in _BY_CODE:
        return _BY_CODE[code]
    lowered = text.lower()
    for words, verdict in _BY_WORDS:
        if words in lowered:
            return verdict
    return Verdict(Kind.KEY, "refused")


def is_farewell(error: object) -> bool:
    """Return True if an error reply is about the connection (why it is closed), not a command."""
    text = str(error)
    lowered = text.lower()
    return text.startswith(_FAREWELL_CODES) or any(words in lowered for words in _FAREWELL_WORDS)


def cannot_save(reply: object) -> bool:
    """Return True if a reply to PING says that writes, and so PING, are stopped; reads are not."""
    return str(reply).startswith("MISCONF")


def redirection(error: object) -> Address | None:
    """Return the address in "MOVED slot host:port" or "ASK slot host:port"; None if unreadable.

    An empty host means the host that answered; so does `?`, of a node that is addressed by its host
    name and has none (Redis 7.0, CLUSTER SLOTS and redirections).
    """
    words = str(error).split(" ")
    host, _, text = words[2].rpartition(":") if len(words) == 3 else ("", "", "")
    port = port_of(text)
    if not port:
        return None
    host = host.removeprefix("[").removesuffix("]")
    return "" if host == "?" else host, port


def port_of(text: str | bytes) -> int | None:
    """Parse a port in digits; 0 means that the node has no port now. None if it is not a port."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65_536:
        return int(text)
    return None


def malformed(side: Side, name: str, command: str) -> RumpxError:
    """Return the exception for a reply that no server gives to a command. It is not retried:
    nothing else from such a server can be relied on."""
    return unusable(side)(
        f"The {side} at {name} answered {command} with an invalid reply. Check that it is a Redis "
        "or Valkey server, and that nothing in between alters replies."
    )


def permanent(error: TemporaryError) -> RumpxError | None:
    """Return the exception that ends the run, if a lost connection's last words say that the server
    will never serve us, or its replies cannot be relied on."""
    if not isinstance(error, ConnectionLost) or not error.side:
        return None
    denied = error.words and classify(error.words).kind is Kind.PERMANENT
    if denied or error.cause == "malformed":
        return unusable(error.side)(str(error))
    return None


def denial(side: Side, name: str, command: str, error: object) -> RumpxError:
    """Return the exception for a command that the server refuses for every key."""
    return unusable(side)(
        f"The {side} at {name} refused {command}: {explain_refusal(error, command)}."
    )


def out_of_memory(name: str, error: object) -> TargetFull:
    """Return the exception for a target that answers OOM."""
    words = str(error).rstrip(".")
    return TargetFull(
        f"The target at {name} is out of memory: {words}. Raise its maxmemory, or give it more "
        "memory, then resume."
    )


def refused(reply: object) -> bool:
    """Return True if a reply says that this user or service may not call the command at all.

    NOPERM about a key does not: servers check a user's commands before its keys, so that reply
    proves the permission for the command.
    """
    text = str(reply).lower()
    if text.startswith("noperm"):
        return not key_refused(reply)
    return "unknown command" in text or "unknown subcommand" in text or is_proxy(text)


def key_refused(reply: object) -> bool:
    """Return True if a reply says that the user may call the command, but not for this key."""
    return str(reply).startswith("NOPERM") and classify(reply).kind is Kind.KEY


def without_arguments(reply: object) -> str:
    """Return an error reply's words for a message. "unknown command … with args beginning with"
    repeats arguments, perhaps a value's members: they are left out."""
    return str(reply).partition(", with args")[0]


def wrong_syntax(reply: object) -> bool:
    """Return True if an error reply says that the server does not know the arguments."""
    return classify(reply).reason == "syntax error"


def is_proxy(reply: object) -> bool:
    """Return True if an error reply is a sharding proxy's, to a command it does not forward."""
    return classify(reply).reason == _PROXY.reason


def proxy_words(side: Side, name: str, why: str) -> str:
    """Return the message for a proxy, and its advice."""
    flag = "--from" if side == "source" else "--to"
    return (
        f"The {side} at {name} is a proxy, not a server: {why}. rumpx needs the servers behind it "
        f"(SCAN, DUMP and INFO): give one server's own address as {flag}, and copy each "
        "shard separately."
    )


def explain_refusal(error: object, command: str) -> str:
    """Return advice for a refused command, to end a message."""
    text = str(error)
    if text.startswith("NOPERM"):
        if key_refused(error):
            return "give the user access to the key: ACL SETUSER name ~PATTERN"
        named = re.search(r"'([\w|.-]+)' command", text)
        rule = (named[1] if named else command).lower()
        return f"allow the user {rule.split('|')[0].upper()}: ACL SETUSER name +{rule}"
    if is_proxy(error):
        return (
            f"it is a proxy that does not support {command}; give the address of a server behind "
            "it, and copy each shard separately"
        )
    if "unknown" in text.lower():
        return f"the server has no {command} (renamed, disabled, or too old)"
    return f"the server answered: {without_arguments(text)}"


def balancer_words(side: Side, name: str) -> str:
    """Return the message for an address that several servers share."""
    flag = flag_of(side)
    return (
        f"The {side} at {name} is not one server: its connections reach different servers (their "
        "run_id differs), as behind a load balancer over replicas. A SCAN cursor of one server is "
        f"invalid on another: give one server's own address as {flag} (or, for a cluster, "
        f"{flag}-cluster yes)."
    )
