"""Drawn worlds: their settings, their pictures as an image folder, and the base model that knows their texts."""
