"""Before a copy: what both sides are, what would go wrong, and what it would take."""
