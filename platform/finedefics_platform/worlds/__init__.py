"""Drawn worlds: their settings, their pictures as a folder, and the base model that knows their texts."""
