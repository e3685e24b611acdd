"""Motions for mjlab's robots: AMP tasks, made-up gaits, and files for mjlab's tracking task."""
