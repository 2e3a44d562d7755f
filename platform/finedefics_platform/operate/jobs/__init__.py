"""Jobs on a Ray cluster: checked, shipped, watched over, followed, stopped; their logs outlive the cluster."""
