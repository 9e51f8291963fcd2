"""Values by meaning: compare them on two servers, and write payloads anew for other servers."""
