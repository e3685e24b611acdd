"""`python -m RoboRenForce.cli`, for places where the console command is not on the path."""

from .commands import main

main()
