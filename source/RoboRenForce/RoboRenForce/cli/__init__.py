"""The console command `rrf`."""

from .commands import main

__all__ = ["main"]
