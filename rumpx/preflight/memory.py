"""Whether the data fits into the target's memory, and a worker's values into this machine's."""

from __future__ import annotations

from typing import Final

from rumpx.errors import TargetFull
from rumpx.preflight.draft import Draft
from rumpx.servers.info import ServerInfo

# Versions and encodings take more or less for the same data, but not that much.
_SURELY_TOO_LARGE: Final = 1.5


def data_in_scope(draft: Draft) -> int | None:
    """Bytes of memory that the source's data take, if all of them are in scope and INFO tells."""
    infos = [info for info in draft.source.infos.values() if info]
    everything = sum(sum(info.keys.values()) for info in infos)
    if draft.scope.filtered or everything != sum(place.keys for place in draft.databases):
        return None
    return sum(info.data_memory for info in infos) if everything else None


def room_on(info: ServerInfo, target_keys: int) -> int:
    """Bytes that a primary of the target has below its maxmemory. Keys that it has already may be
    the same as those that come, and then give their room back."""
    return max(0, info.max_memory - (info.startup_memory if target_keys else info.used_memory))


def check_room(draft: Draft) -> None:
    """Refuse data that cannot fit, and doubt those that hardly will, where nothing but INFO is
    needed to know. While it runs a copy sees what they really take (`room`).

    Raises:
        TargetFull: they cannot fit.
    """
    needed, limit = data_in_scope(draft), draft.job.limits.max_target_memory
    infos = draft.target.infos.values()
    if needed is None or limit is None or not all(info and info.max_memory for info in infos):
        return
    room = limit * sum(room_on(info, draft.target_keys) for info in infos if info)
    facts = (
        f"The source's data take {needed / 1e6:,.1f} MB, and below the target's maxmemory is room "
        f"for {room / 1e6:,.1f} MB"
    )
    if needed > _SURELY_TOO_LARGE * room:
        raise TargetFull(
            f"{facts}: they will not fit. Raise its maxmemory, choose fewer keys, or accept it "
            "with --max-target-memory off."
        )
    if needed > room:
        draft.warnings.append(f"{facts}: they will hardly fit. Raise its maxmemory.")
