"""Clients of ADK's own server."""
