"""Entry points of worker processes: they build the container, engines never do."""
