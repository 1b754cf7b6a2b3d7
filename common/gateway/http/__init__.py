"""HTTP/1.1 on raw transports: parsing, framing and connections. Knows nothing of models or keys."""
