"""The plain text wire: `GET` and `POST /chat/stream`."""
