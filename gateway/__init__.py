"""The REST gateway: HTTP and JSON in, gRPC out. It keeps no state and holds no model."""
