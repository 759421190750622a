"""The endpoint picker behind Envoy: gRPC ext_proc, endpoint picker protocol 1.0."""
