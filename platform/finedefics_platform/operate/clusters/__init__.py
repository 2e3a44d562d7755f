"""Ray clusters: brought up on this machine, and written down for Kubernetes and cloud machines."""
