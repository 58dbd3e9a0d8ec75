"""Datasets: reading uploads, contract checks, cleaning, profiles, versions and splits."""
