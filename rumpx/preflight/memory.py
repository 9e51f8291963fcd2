"""Check before a copy whether its data fit into the target's memory.

A large value that goes in pieces stands beside the old one until it is whole, one a worker
(`transfer.stream`), so a target that has such keys needs room for both. The sizes of the largest
values are known from the sample of a check, from the section `keysizes` of INFO, or from what a
running copy has met; no keys are scanned for them.

Not promised: that these are the largest values, or that the old ones are as large.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from typing import Final

from rumpx.errors import TargetFull
from rumpx.preflight.draft import Draft
from rumpx.servers.answers import ask_text
from rumpx.servers.info import ServerInfo
from rumpx.servers.keysizes import largest_values
from rumpx.servers.side import connected
from rumpx.units import size

# Versions and encodings need different memory for the same data, but within this factor.
_SURELY_TOO_LARGE: Final = 1.5


def data_in_scope(draft: Draft) -> int | None:
    """Return the memory of the source's data in bytes; None unless all are in scope and in INFO."""
    infos = [info for info in draft.source.infos.values() if info]
    everything = sum(sum(info.keys.values()) for info in infos)
    if draft.scope.filtered or everything != sum(place.keys for place in draft.databases):
        return None
    return sum(info.data_memory for info in infos) if everything else None


def room_on(info: ServerInfo, target_keys: int) -> int:
    """Return the bytes that a primary of the target has left below its maxmemory. Existing keys may
    be the same as the copied ones, and then free their memory."""
    return max(0, info.max_memory - (info.startup_memory if target_keys else info.used_memory))


def old_values(sizes: Iterable[int], streams: int, stream_from: int | None, held: int) -> int:
    """Return the bytes of old values that a target may hold beside the new ones at one moment.

    Args:
        sizes: of the largest values that are known, in bytes.
        streams: the most values that are streamed at the same time.
        stream_from: the bytes from which a value is streamed; None streams none.
        held: the bytes of the target's data before the copy: its old values have no more.
    """
    if stream_from is None:
        return 0
    return min(held, sum(nlargest(streams, (each for each in sizes if each >= stream_from))))


def old_values_on(draft: Draft, info: ServerInfo, sizes: Iterable[int]) -> int:
    """Return `old_values` of a primary of the target; 0 if no keys are replaced."""
    if draft.policy != "replace" or not draft.target_keys:
        return 0
    return old_values(sizes, draft.tuning.workers, draft.job.stream_from, info.data_memory)


def beside(old: int) -> str:
    """Return the end of a sentence that names needed bytes, of which `old` are for old values."""
    return f", {size(old)} of them for old values while new ones are written beside them"


def _largest_on_source(draft: Draft) -> list[int]:
    """Return the bytes that the largest values have at least, one for each worker, as far as INFO
    shows them."""
    found: list[int] = []
    number = draft.tuning.workers
    if not draft.abilities.distributions:
        return []
    for node in draft.source.topology.nodes:
        with connected(draft.source.dialer, node.address) as connection:
            told = ask_text(connection, "INFO", "keysizes")
        try:
            found += largest_values(told or "", number)
        except ValueError:
            continue
    return nlargest(number, found)


def check_room(draft: Draft) -> None:
    """Refuse data that cannot fit, and warn of data that hardly will, as far as INFO alone shows
    it. A running copy measures the real sizes (`copier.target_memory`).

    Raises:
        TargetFull: the data cannot fit.
    """
    needed, limit = data_in_scope(draft), draft.job.limits.max_target_memory
    infos = draft.target.infos.values()
    if needed is None or limit is None or not all(info and info.max_memory for info in infos):
        return
    room = limit * sum(room_on(info, draft.target_keys) for info in infos if info)
    facts = (
        f"The source's data take {needed / 1e6:,.1f} MB, and the target has {room / 1e6:,.1f} MB "
        "left below its maxmemory"
    )
    if needed > _SURELY_TOO_LARGE * room:
        raise TargetFull(
            f"{facts}: they will not fit. Raise its maxmemory, choose fewer keys, or accept it "
            "with --max-target-memory off."
        )
    if needed > room:
        draft.warnings.append(f"{facts}: they may not fit. Raise its maxmemory.")
        return
    sizes = _largest_on_source(draft)
    old = sum(old_values_on(draft, info, sizes) for info in infos if info)
    if needed + old > room:
        draft.warnings.append(
            f"{facts}, but a large value is written beside the old one, which takes up to "
            f"{size(old)} more: they may not fit. Raise its maxmemory, or "
            f"{draft.job.fewer_workers}."
        )
