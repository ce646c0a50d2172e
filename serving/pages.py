"""The pages for people: of each model a form to try it, its last hour, its releases and its card."""

import secrets
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from serving.bundle import Bundle
from serving.models import Models

if TYPE_CHECKING:
    from jinja2 import Environment

# Styles may stand in a page (Swagger UI writes its own); whoever could add one could run nothing by it.
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
GUARDED = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}


@cache
def pages() -> "Environment":
    """The templates; Jinja and Markdown are loaded for the first page, since predictions need not wait for them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined)


def respond(template: str, **values: Any) -> HTMLResponse:
    """The page as a browser is to take it: it runs the scripts of its template and of this service, and nothing else."""
    nonce = secrets.token_urlsafe(16)
    html = pages().get_template(template).render(nonce=nonce, **values)
    return HTMLResponse(html, headers={"content-security-policy": POLICY.format(nonce=nonce), **GUARDED})


def render_home(models: Models) -> HTMLResponse:
    """The page at `/` of a service of several models: what each tells, and the way to its page."""
    return respond("home.html", models=[model for model in models.of.values() if model.ready])


def render_page(bundle: Bundle, shared: bool) -> HTMLResponse:
    """The page of a model: a form with a field for each column, filled with a golden row, the last hour, the releases and its card.

    `shared`: by a service that has other models too, whose traffic is counted as one.
    """
    from markdown_it import MarkdownIt

    card = MarkdownIt("commonmark", {"html": False}).enable("table").render(bundle.card.partition("\n")[2])
    return respond(
        "page.html",
        name=bundle.name,
        meaning=bundle.encoder.target.meaning,
        task=bundle.encoder.target.task,
        version=bundle.version,
        encoder=bundle.encoder,
        example=bundle.golden[0],
        card=card,
        shared=shared,
    )


def render_docs(name: str) -> HTMLResponse:
    """The page at `/docs`: the OpenAPI document to read and try."""
    return respond("docs.html", name=name)
