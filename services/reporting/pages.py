"""The KPI page: three public files without any data; the page asks the API with its own token."""

from pathlib import Path

from fastapi import APIRouter, Response

_FOLDER = Path(__file__).parent / "page"

_HEADERS = {
    # Nothing inline, nothing from elsewhere, nothing sent elsewhere, in nobody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


def page_routes() -> APIRouter:
    """Return the routes of the page, which need no token."""
    router = APIRouter(prefix="/reporting", include_in_schema=False)
    for path, (name, media_type) in _FILES.items():
        _serve(router, f"/{path}", (_FOLDER / name).read_bytes(), media_type)
    return router


def _serve(router: APIRouter, path: str, content: bytes, media_type: str) -> None:
    @router.get(path, response_model=None)
    async def page_file() -> Response:
        """Return a file of the page."""
        return Response(content, media_type=media_type, headers=_HEADERS)
