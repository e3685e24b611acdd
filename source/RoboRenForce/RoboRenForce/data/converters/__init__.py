"""Converters of other formats to LeRobot v3.0."""
