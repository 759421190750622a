"""The autoscaler: metrics in, desired replicas out."""
