"""mjlab's environment step without the host; `step.FastStep` is the way in."""
