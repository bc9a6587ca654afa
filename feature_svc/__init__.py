"""Features: computed from market data, held to the point-in-time rules, and served as vectors by stream and gRPC."""
