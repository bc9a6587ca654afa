"""Envoy, as the wheels carry it: one place that knows where it is and how it is told what to do."""
