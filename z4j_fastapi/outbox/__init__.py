"""Durable store of events and command results, and the journal of commands."""
