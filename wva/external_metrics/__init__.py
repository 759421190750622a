"""The ``external.metrics.k8s.io/v1beta1`` API, which a HorizontalPodAutoscaler reads."""
