"""SoundingShapes: generated clips in AVSBench's layout, in which drawn shapes sound."""
