"""Inference: models that mlops_svc deploys, served over gRPC and applied to the stream of feature vectors."""
