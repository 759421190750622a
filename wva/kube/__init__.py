"""wva on Kubernetes: where variants and replicas come from, and where decisions go."""
