"""`make demo`: the main job end to end on real data, on the embedded cloud."""
