"""KV events of engines: what they look like on the wire, in which order they count, and how they are fetched."""
