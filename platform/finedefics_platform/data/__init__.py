"""From a source of pictures to an immutable, described, mined dataset version."""
