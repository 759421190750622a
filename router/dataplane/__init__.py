"""The hot path: HTTP/1.1 on asyncio protocols with httptools on both sides, no framework.

``reader`` and ``response`` parse without I/O; ``client`` and ``upstream`` are the two connections; ``exchange``
carries one request from the one to the other; ``gateway`` is what they share.
"""
