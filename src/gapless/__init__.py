"""Gapless: stream AI-agent responses over Server-Sent Events without a gap."""
