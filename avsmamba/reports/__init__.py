"""Pages that maintainers draw from the source tree: the zoo, the ablations, the demo, the figures."""
