"""The copy."""
