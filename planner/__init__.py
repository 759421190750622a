"""Sizing, advice, search and manifests: what to buy, what to deploy, from one model of the engine."""
