"""Displays of a run while it lasts."""
