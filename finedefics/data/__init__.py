"""Where pictures come from: readers of sources, and generated worlds."""
