"""Published scaling rules, written from their publication; each is a pure function with a test of its formula."""
