"""What a prediction costs on the way to the model, beside peers and floors: `python -m bench.inference`."""
