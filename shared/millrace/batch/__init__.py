"""Batch prediction: a file is split into chunks, each is scored once, the results are put in order."""
