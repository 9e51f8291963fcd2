"""Inside a worker: read and write one batch of keys."""
