"""A training run: started on the cluster, followed, sharded, saved, resumed."""
