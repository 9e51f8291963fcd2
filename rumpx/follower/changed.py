"""The names of the keys that were settled since the last pass began, for the comparison at the
cutover: all of them, or, of too many, a random sample.

The sample is chosen by a hash of the name, so that it does not depend on how often a key was
settled; whenever it has become too large, half of it is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_MOST: Final = 200_000
_HASHES: Final = 1 << 32


class Changed:
    """A set of names, bounded.

    Attributes:
        share: of all names that were added; 1.0 if all are here.
    """

    def __init__(self) -> None:
        self.share = 1.0
        self._names: set[bytes] = set()

    def clear(self) -> None:
        """Begin anew."""
        self.share = 1.0
        self._names.clear()

    def add(self, names: Sequence[bytes]) -> None:
        """Add names."""
        if self.share == 1.0:
            self._names.update(names)
        else:
            self._names.update(self._sampled(names))
        while len(self._names) > _MOST:
            self.share /= 2
            self._names = set(self._sampled(list(self._names)))

    def _sampled(self, names: Sequence[bytes]) -> list[bytes]:
        below = int(self.share * _HASHES)
        return [name for name in names if hash(name) & (_HASHES - 1) < below]

    @property
    def names(self) -> list[bytes]:
        """The names."""
        return list(self._names)
