"""What every process needs: settings, logs, telemetry, the gRPC server, Redis, the supervisor, the command."""
