"""The independent oracle: a server, a venue, a proxy and a reader that share no code with the product."""
