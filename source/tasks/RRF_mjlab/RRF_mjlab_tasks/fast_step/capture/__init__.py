"""What makes CUDA graphs of a list of stages; it knows nothing of what a step does."""
