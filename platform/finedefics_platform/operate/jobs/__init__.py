"""Jobs on a Ray cluster: checked, shipped, followed, stopped; their logs outlive the cluster."""
