"""Compare keys by checksums that the servers compute.

The checksum of a payload without its version is the same for one body on any server, so that equal
ones are equal values between versions too.
"""

from __future__ import annotations

from functools import partial

from rumpx.model.job import Scope
from rumpx.servers.rdb import FOOTER_BYTES, body_checksum
from rumpx.servers.resp import Reply, encode
from rumpx.transfer.chunks import Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.messages import Batch
from rumpx.transfer.runner import Task
from rumpx.verifier.verdicts import Judge, State, Verdicts

# The footer of a DUMP payload, with its checksum, and the expiry; "" for a value that is so large
# that it is read in pieces. A third number says that the value turned out to be so large.
_DIGEST_SCRIPT = (
    "local m = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', '1') "
    "if type(m) == 'number' and m >= tonumber(ARGV[1]) then return {'', -2} end "
    "local d = redis.call('DUMP', KEYS[1]) "
    "if not d then return {'', -2} end "
    f"local told = {{string.sub(d, -{FOOTER_BYTES}), redis.call('PEXPIRETIME', KEYS[1])}} "
    "if #d >= tonumber(ARGV[1]) then told[3] = #d end "
    "return told"
)



class Digests:
    """Compares keys by checksums.

    Args:
        source, target: ask both sides.
        intake: grants turns.
        judge: judges expiries.
        scope: for the target's database.
        stream_from: larger values are not dumped; None for none.
    """

    def __init__(
        self,
        source: Calls,
        target: Calls,
        intake: Intake,
        judge: Judge,
        scope: Scope,
        stream_from: int | None,
    ) -> None:
        self._source = source
        self._target = target
        self._intake = intake
        self._judge = judge
        self._scope = scope
        self._digest = partial(
            _digest, stream_from=2**62 if stream_from is None else stream_from
        )

    def unmatched(
        self, batch: Batch, keys: list[bytes], verdicts: Verdicts
    ) -> Task[tuple[list[bytes], dict[bytes, int]]]:
        """Count the keys whose checksums and expiries match; return all others, including those
        that lost a connection: with their sizes known, a culprit is found sooner. Apart from them,
        the values that turned out to be large, with their bytes; a task."""
        yield from self._intake.turn(len(keys), ops=len(keys))
        digest, db = self._digest, self._scope.target_db(batch.db)
        here = yield from self._source.each(digest, "EVAL_RO", batch.db, keys, patient=False)
        there = yield from self._target.each(digest, "EVAL_RO", db, keys, patient=False)
        others: list[bytes] = []
        large: dict[bytes, int] = {}
        for key in keys:
            mine, theirs = _state(here[key]), _state(there[key])
            same = mine and theirs and body_checksum(mine[0]) == body_checksum(theirs[0])
            if same and self._judge.same_expiry(mine[1], theirs[1]):  # type: ignore[index]
                verdicts.equal += 1
            elif size := max(_size(here[key]), _size(there[key])):
                large[key] = size
            else:
                others.append(key)
        return others, large


def _digest(key: bytes, stream_from: int) -> bytes:
    return encode("EVAL_RO", _DIGEST_SCRIPT, 1, key, stream_from)


def _state(reply: Reply) -> State | None:
    """Return the reply of the digest script; None if the key is absent or the reply an error."""
    if isinstance(reply, list) and len(reply) in (2, 3):
        digest, expiry = reply[:2]
        if not isinstance(digest, bytes) or len(digest) != FOOTER_BYTES:
            return None
        if isinstance(expiry, int):
            return digest, expiry
    return None


def _size(reply: Reply) -> int:
    """Return the bytes of a value that turned out to be large; 0 if it is not."""
    size = reply[2] if isinstance(reply, list) and len(reply) == 3 else 0
    return size if isinstance(size, int) else 0
