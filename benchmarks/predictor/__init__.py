"""``fleet bench predictor``: how good the latency model is, and what it costs."""
