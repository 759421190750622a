"""Prefill and decode on different engines: whether, where, and in which words."""
