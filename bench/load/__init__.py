"""Load generators that count what came back, and the floor of the transport: C++, built on demand."""
