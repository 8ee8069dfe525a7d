"""Clients of the Vercel AI SDK."""
