"""The servers: dialling, the wire protocol, topology, replicas, error replies."""
