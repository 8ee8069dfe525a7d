"""Runs: who executes an agent, records what it says and reads it back."""
