"""The prediction service on premises: bundles from disk behind uvicorn, with Prometheus metrics."""
