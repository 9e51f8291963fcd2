"""Before the first write: look at both sides, refuse, plan."""
