"""Where pictures come from: trees of files, readers of sources, and generated worlds."""
