"""Convert own videos with masks to AVSBench's layout, or to the formats of annotation tools."""
