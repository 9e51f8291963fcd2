"""The orders of one moment, pure: the governor's decision, shared out among the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from rumpx.remote.messages import Orders
from rumpx.throttle.decision import Decision
from rumpx.throttle.rates import Pace


def orders_of(
    run: str,
    number: int,
    decision: Decision,
    booked: Mapping[str, int],
    ended: Iterable[str],
) -> Orders:
    """Return orders that share a decision out.

    Args:
        run, number: as in Orders.
        booked: the tokens of the tasks that may work, each with the number of its booked reports.
        ended: tokens of those that must end.
    """
    able = tuple(booked)
    share = max(1, len(able))
    pace = decision.pace
    keys, payload, ops = (rate / share for rate in pace.rates)
    return Orders(
        run,
        number,
        replace(pace, keys=keys, payload=payload, ops=ops),
        decision.scan_count,
        shares(decision.scans_in_flight, able),
        decision.batch_keys,
        shares(decision.batches_in_flight, able),
        decision.wait * share,
        frozenset(able),
        frozenset(ended),
        dict(booked),
    )


def free_orders(
    run: str,
    number: int,
    booked: Mapping[str, int],
    ended: Iterable[str],
    *,
    stop: bool,
    renew: bool,
) -> Orders:
    """Return orders of a moment without a decision: tasks have nothing in flight, or `stop` once
    that is settled.

    Args:
        run, number, booked, ended: as for `orders_of`.
        renew: leases go on; not once the run waits for results only.
    """
    accepted = frozenset(booked if renew else ())
    return Orders(
        run, number, Pace(hurry=stop), 1000, {}, 1000, {}, 0.0, accepted,
        frozenset(ended), dict(booked), stop,
    )  # fmt: skip


def shares(batches: int, tokens: tuple[str, ...]) -> dict[str, int]:
    """Return how many of the batches each task may have in flight: evenly, the first ones more; so
    with fewer batches than tasks some rest."""
    if not tokens:
        return {}
    each, more = divmod(batches, len(tokens))
    return {token: each + (n < more) for n, token in enumerate(tokens)}
