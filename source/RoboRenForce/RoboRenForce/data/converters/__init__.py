"""Other formats to LeRobot v3.0."""
