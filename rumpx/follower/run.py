"""The way in which a job is done: copied, or also followed."""

from __future__ import annotations

from rumpx.copier.run import Way, copying
from rumpx.follower.follower import Follower
from rumpx.follower.plan import prepare_follow
from rumpx.model.job import Job
from rumpx.preflight.draft import Ask, Consent


def way_of(
    job: Job,
    ask: Ask | None = None,
    consent: Consent | None = None,
    *,
    migrates: bool = False,
) -> Way:
    """Return the way of a new job.

    Args:
        ask: asks for the policy for keys that the target has, on a terminal.
        consent: asks for permission to delete such keys; None if nobody can be asked.
        migrates: its user is asked on the terminal for the cutover.
    """
    if not job.follow:
        return copying(ask)
    return Way(lambda job: prepare_follow(job, consent), Follower, migrates)


def way_again(job: Job) -> Way:
    """Return the way to resume a job: its user has answered all questions."""
    if not job.follow:
        return copying()
    return Way(lambda job: prepare_follow(job, None, again=True), Follower)
