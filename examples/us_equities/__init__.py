"""Twenty US equities, daily: from closing prices to signals, through the whole mesh (`quantmesh demo`)."""
