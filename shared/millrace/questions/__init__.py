"""What people ask of the record: the read side of the registry, in a bounded number of requests."""
