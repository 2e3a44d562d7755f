"""The error of a process that went away beside a worker."""

from finedefics.errors import FinedeficsError


class LostProcess(FinedeficsError):
    """Nobody's mistake: what a worker needs was lost, and the run goes on as after the loss of a worker."""
