"""Child processes: how they start, the channel to them, and memory that they share."""
