"""Values by meaning: compare one key's value on two servers, regardless of encoding."""
