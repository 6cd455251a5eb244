"""From a video to its masks: windows, frames, records, output files."""
