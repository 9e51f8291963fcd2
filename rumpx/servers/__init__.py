"""What a Redis is: dialling, the wire protocol, topology, capabilities, error replies."""
