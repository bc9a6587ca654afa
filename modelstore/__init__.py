"""Models and deployments: immutable artifacts, which version each strategy serves, and who serves it by now."""
