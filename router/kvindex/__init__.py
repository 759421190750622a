"""Which endpoint holds which blocks of which prompts, as the engines themselves say. Pure."""
