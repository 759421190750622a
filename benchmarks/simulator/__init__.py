"""How fast the simulator is, and how true to published measurements."""
