"""Runs in MLflow: recorded without stopping the work, read back, shown."""
