"""The comparison of both sides."""
