"""Learns TTFT and TPOT from the history of requests."""
