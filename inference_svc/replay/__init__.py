"""Reproduces recorded signals from recorded vectors, bit for bit, and scores any model on the same inputs."""
