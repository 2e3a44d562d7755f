"""Registered models: packed, versioned, promoted through a gate, given categories."""
