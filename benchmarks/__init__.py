"""What is measured, side by side in one run: `python -m benchmarks [NAME …]` or `make bench`."""
