"""Orchestration: the agent's thread, its session, and what runs on it."""
