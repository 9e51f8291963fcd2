"""Child processes: their start, their channels, their signals, and the memory they share."""
