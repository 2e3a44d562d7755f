"""The platform: the method on Ray, DeepSpeed and MLflow, from a laptop to a cluster."""
