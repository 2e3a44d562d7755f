"""What a model answers, on which pictures, and how right it is."""
