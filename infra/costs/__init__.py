"""What a deployment costs: by the hour (nothing), at rest, and by use; `docs/costs.md` explains it.

Everything is read from the expanded template, the parameters of a stage, dated public prices and
stated assumptions. Nothing here asks AWS.
"""
