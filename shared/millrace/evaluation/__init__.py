"""Judging a candidate on held-out rows: metrics, intervals, comparison, gates, report."""
