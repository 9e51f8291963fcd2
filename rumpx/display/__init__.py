"""Displays of a running job."""
