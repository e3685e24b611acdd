"""Recorded data on its way to a learner."""
