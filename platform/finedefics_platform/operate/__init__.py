"""Whether a machine or cluster can do the work, and the jobs that run there."""
