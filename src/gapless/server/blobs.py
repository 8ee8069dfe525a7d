"""Answering with a run's blob: bytes that an agent made, so nothing that a browser would run as this site's."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gapless.errors import BlobNotFound
from gapless.onetext import FILE_NAME
from gapless.runs.readers import Readers

__all__ = ["blob_response"]

_ID = re.compile(rf"[0-9a-f]{{1,64}}|{FILE_NAME}[1-9][0-9]{{0,8}}")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,100}/[\w.+-]{1,100}(; ?charset=[\w-]{1,40})?", re.ASCII)
_SHOWN = re.compile(r"(image/(png|jpeg|gif|webp|avif|bmp)|(audio|video)/[\w.+-]+|text/plain|application/(pdf|json))\b")
"""What a browser may show; anything else, as HTML and SVG, which hold scripts, it only saves."""
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_HEADERS = {
    "accept-ranges": "bytes",
    "content-security-policy": "sandbox; default-src 'none'",
    "x-content-type-options": "nosniff",
}
_FOR_GOOD, _ASKED_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"
"""Another run may have a deleted one's id, and other bytes at the same place of it."""


async def blob_response(request: Request, readers: Readers, run_id: str, blob_id: str) -> Response:
    """Answer with the blob `blob_id` of a run that the caller may read, or with the one range of it that is asked for
    (RFC 9110, section 14). Raises `BlobNotFound`, `StoreUnavailable`."""
    if not _ID.fullmatch(blob_id):
        raise BlobNotFound(f"run {run_id} has no blob {blob_id[:64]!r}", run_id=run_id)
    blob = await readers.blobs.find(run_id, blob_id)
    digest = blob.digest(blob_id)
    tag = f'"{digest}"'
    headers = {**_HEADERS, "etag": tag, "cache-control": _FOR_GOOD if digest == blob_id else _ASKED_AGAIN}
    if tag in [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    headers["content-disposition"] = "inline" if _SHOWN.match(blob.mime_type) else "attachment"
    headers["content-type"] = blob.mime_type if _MEDIA_TYPE.fullmatch(blob.mime_type) else "application/octet-stream"
    start, stop, status = 0, blob.size, 200
    if request.headers.get("if-range", tag) == tag and (asked := _asked(request, blob.size)) is not None:
        start, stop = asked
        if start >= stop:
            return Response(status_code=416, headers={**_HEADERS, "content-range": f"bytes */{blob.size}"})
        status = 206
        headers["content-range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    headers["content-length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(readers.blobs.read(run_id, blob_id, blob, start, stop), status, headers)


def _asked(request: Request, size: int) -> tuple[int, int] | None:
    """Return the range that is asked for, as from and to (not included); None for the whole, also where several ranges
    are asked for."""
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size
