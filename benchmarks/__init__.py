"""The experiments behind every performance claim: they drive the very functions that production runs."""
