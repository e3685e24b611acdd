"""Exports only."""
