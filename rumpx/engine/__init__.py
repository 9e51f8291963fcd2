"""Walk partitions and have workers settle their keys."""
