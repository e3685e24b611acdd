"""Capture of a list of stages in CUDA graphs, independent of what the stages do."""
