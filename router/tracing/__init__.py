"""OpenTelemetry traces of requests: off unless asked for, and then only where the package is installed."""
