"""Keep the target in step with the source after the copy."""
