"""The OpenAPI document, and Swagger UI to read it: out of the `fastapi_swagger` package, without the internet.

That package serves the page itself too, with absolute URLs of the scheme and host that it was asked by; those are wrong
behind a proxy that ends TLS. Here all URLs are relative to the page.
"""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse

from runtime.rest.problems import Problem

router = APIRouter(include_in_schema=False)

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "application/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


@router.get("/docs")
async def page() -> HTMLResponse:
    """The page."""
    return get_swagger_ui_html(
        title="quantmesh - Swagger UI",
        openapi_url="openapi.json",
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="swagger/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )


@router.get("/openapi.json")
async def document(request: Request) -> JSONResponse:
    """The OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/swagger/{name}")
def resource(name: str) -> Response:
    """A file that the page needs."""
    if name not in _MEDIA_TYPES:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no {name} here", reason="NO_SUCH_PATH")
    content = (files("fastapi_swagger.resources") / name).read_bytes()
    return Response(content, media_type=_MEDIA_TYPES[name], headers={"cache-control": "max-age=3600"})
