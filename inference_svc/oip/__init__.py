"""The Open Inference Protocol (KServe's V2): models by their own tensors, over the same models, queue and names."""
