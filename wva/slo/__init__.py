"""The analyzer ``slo``: how much load a replica bears under its latency targets, and what that load will be. Pure.

``mix`` says what a request costs, ``law`` how latency grows with the requests in flight, ``misses`` which share of
them misses its targets, ``demand`` how much work arrives, ``forecast`` how much will by the time that a replica could
be ready, ``sizing`` which number of replicas costs least, misses included.
"""
