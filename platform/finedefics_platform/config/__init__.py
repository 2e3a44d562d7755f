"""Documents a user writes: read, overridden by key, validated."""
