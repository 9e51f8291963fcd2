"""A run's cost to the servers: measured, limited, and enforced."""
