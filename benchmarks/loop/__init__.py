"""The controller's loop at scale: one pass over a thousand variants and ten thousand engines."""
