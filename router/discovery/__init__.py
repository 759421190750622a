"""Where the engines are: a fixed list, a platform's API, a file, DNS, or Kubernetes (``--discover``)."""
