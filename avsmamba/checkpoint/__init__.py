"""Read checkpoint files, translate foreign ones, load weights and report every key that did not match."""
