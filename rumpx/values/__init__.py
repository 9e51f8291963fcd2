"""Values by meaning: comparing one key's value on two servers, whatever their encodings."""
