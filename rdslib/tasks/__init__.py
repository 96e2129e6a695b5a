"""The target tasks: query and test samples, and protocols."""
