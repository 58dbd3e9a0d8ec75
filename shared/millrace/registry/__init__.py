"""The registry: what is known of every model, who changed it, and what serves now."""
