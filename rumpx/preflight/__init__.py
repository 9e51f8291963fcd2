"""Before the first write: inspect both sides, refuse, plan."""
