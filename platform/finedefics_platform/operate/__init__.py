"""Whether a machine or cluster can do the work."""
