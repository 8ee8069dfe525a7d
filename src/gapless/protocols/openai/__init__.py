"""Clients of OpenAI's chat completions and responses."""
