"""Serving: the model store, and the codec between requests and the model's arrays."""
