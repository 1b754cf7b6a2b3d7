"""Models: what a reference means, where its files come from, whether they fit, what is cached."""
