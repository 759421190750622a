"""``fleet up``: the whole loop on one machine, as supervised processes."""
