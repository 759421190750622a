"""The router: Filter -> Score -> Pick, and the streaming proxy around it."""
