"""Displays of a run: each file here draws Snapshots or a Summary and knows nothing of sockets."""
