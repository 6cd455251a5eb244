"""Models by name: those that the package ships, and the public ones that checkpoints are recognised as."""
