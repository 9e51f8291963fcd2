"""The cost of a run to the servers: measured, limited, and enforced."""
