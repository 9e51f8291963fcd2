"""The main job: plan partitions, scan them, and copy their keys by worker processes."""
