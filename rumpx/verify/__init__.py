"""Comparing both sides, in both directions, and mending what differs."""
