"""Searches: trials that are ordinary runs, over any keys of an experiment."""
