"""Rollouts that look after themselves: sequential tests, health, and what the machine does."""
