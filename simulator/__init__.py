"""Engines that behave like vLLM without a GPU, and the traffic to drive them."""
