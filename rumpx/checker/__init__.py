"""The check before a copy."""
