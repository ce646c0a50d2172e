"""The pages for people: of each model a form to try it, its last hour, its releases and its card."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from serving.bundle import Bundle
from serving.models import Models

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def pages() -> "Environment":
    """The templates; Jinja and Markdown are loaded for the first page, since predictions need not wait for them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined)


def render_home(models: Models) -> str:
    """The page at `/` of a service of several models: what each tells, and the way to its page."""
    return pages().get_template("home.html").render(models=[model for model in models.of.values() if model.ready])


def render_page(bundle: Bundle, shared: bool) -> str:
    """The page of a model: a form with a field for each column, filled with a golden row, the last hour, the releases and its card.

    `shared`: by a service that has other models too, whose traffic is counted as one.
    """
    from markdown_it import MarkdownIt

    card = MarkdownIt("commonmark", {"html": False}).enable("table").render(bundle.card.partition("\n")[2])
    return (
        pages()
        .get_template("page.html")
        .render(
            name=bundle.name,
            meaning=bundle.encoder.target.meaning,
            task=bundle.encoder.target.task,
            version=bundle.version,
            encoder=bundle.encoder,
            example=bundle.golden[0],
            card=card,
            shared=shared,
        )
    )


def render_docs(name: str) -> str:
    """The page at `/docs`: the OpenAPI document to read and try."""
    return pages().get_template("docs.html").render(name=name)
