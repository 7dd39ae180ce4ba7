"""Serves the files of the page at `/`, which load nothing from anywhere else.

Open it to see which headers the page has.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from talktune.serve.dialects.wire import BadRequest

FILES = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page:
    """The files, read once."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in FILES.iterdir() if path.suffix in KINDS}

    async def file(self, request: Request) -> Response:
        """GET / and GET /page/FILE: for everybody, since no data is in them."""
        name = request.path_params.get("file", "index.html")
        if name not in self._files:
            raise BadRequest(f"The page has no file {name[:100]}.", status=404, type="not_found_error")
        return Response(self._files[name], media_type=KINDS[Path(name).suffix], headers=HEADERS)
