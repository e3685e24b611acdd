"""The simulation, launched and recorded for captured steps."""
