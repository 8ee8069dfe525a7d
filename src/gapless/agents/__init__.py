"""Agents: one adapter module per framework behind the seam in `gapless.agents.base`."""
