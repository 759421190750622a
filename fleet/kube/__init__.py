"""The Kubernetes API, and collections of it that are followed by list and watch. Needs the ``kube`` extra."""
