"""The console: four layers and the decisions, in a browser."""
