"""The HTTP surface."""

from gapless.server.app import create_app

__all__ = ["create_app"]
