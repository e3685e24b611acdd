"""mjlab's managers for a mask of rows instead of `env_ids`."""
