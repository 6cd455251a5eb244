"""SoundingShapes: generated clips of moving, sounding shapes in AVSBench's layout."""
