"""The lease of a task: how long it works without orders of its coordinator."""

from __future__ import annotations

from typing import Final

# Seconds after the last orders of a coordinator until a task stops by itself.
LEASE_SECONDS: Final = 10.0
