"""MLOps: keeps models and decides which one serves. What it decides reaches inference_svc as an event."""
