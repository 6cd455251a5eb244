"""Clips in tar files (WebDataset's format) with an index, for data that does not fit on one disk; see docs/scale.md."""
