"""The control socket of a running job: its server and its client."""
