"""A task's settings, made of a plan: without passwords and files of this machine, and these apart.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rumpx.engine.plan import Plan
from rumpx.errors import Side, UsageError
from rumpx.model.nodes import Node
from rumpx.remote.messages import Secrets
from rumpx.servers.dial import Dialer


def bare(dialer: Dialer) -> Dialer:
    """Return a dialer without passwords, and without what only this machine has."""
    endpoint = dialer.endpoint
    tls = endpoint.tls and replace(endpoint.tls, ca=None)
    endpoint = replace(endpoint, password=None, sentinel_password=None, tls=tls)
    return replace(dialer, endpoint=endpoint, redials=None, writer="")


def nodes_of(plan: Plan) -> tuple[tuple[Side, Node, str], ...]:
    """Return all nodes that tasks reach, as `WalkTask.nodes`."""
    return tuple(
        (side.dialer.side, node, side.run_id(node.address))
        for side in (plan.source, plan.target)
        for node in side.topology.nodes
    )


def secrets_of(plan: Plan) -> Secrets:
    """Return what tasks need beside their settings.

    Raises:
        UsageError: a certificate's file cannot be read; passwords may not be sent.
    """
    passwords: dict[tuple[Side, str], str] = {}
    authorities: dict[Side, bytes] = {}
    for side in (plan.source, plan.target):
        endpoint, name = side.dialer.endpoint, side.dialer.side
        if endpoint.tls and endpoint.tls.ca:
            try:
                authorities[name] = Path(endpoint.tls.ca).read_bytes()
            except OSError as error:
                raise UsageError(f"{endpoint.tls.ca} cannot be read: {error.strerror}.") from None
        if plan.job.dask_send_passwords:
            for kind in ("password", "sentinel_password"):
                if (word := getattr(endpoint, kind)) is not None:
                    passwords[name, kind] = word
    return Secrets(passwords, authorities)
