"""The streaming fabric alone: a catalog, a producer and a processor of one's own; docs/streams.md explains it."""
