"""Adapters: one AWS service per file; the only place that translates botocore errors."""
