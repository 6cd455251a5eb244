"""Read checkpoint files, translate foreign ones, and load weights with a report of every key that did not match."""
