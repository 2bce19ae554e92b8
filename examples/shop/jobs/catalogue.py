"""The supplier's catalogue, taken over page by page. A worker that takes over goes on after the last page that is in."""

import httpx
from pydantic import BaseModel, PositiveInt

from db.models import Product
from jobs.resources import Resources
from ledgerq import JobContext, Outside, Payload, job


class ImportProducts(Payload[int], kind="import_products"):
    """Bring the products up to what the supplier sells. The job answers with how many those are."""


class Offer(BaseModel):
    """A product as the supplier writes it."""

    name: str
    price: PositiveInt


class Page(BaseModel):
    """What the supplier answers."""

    products: list[Offer]
    pages: int


async def fetch(supplier: httpx.AsyncClient, number: int) -> Page:
    """One page; asking twice does no harm."""
    answer = await supplier.get("/products", params={"page": number})
    return Page.model_validate_json(answer.raise_for_status().content)


async def put_in(context: JobContext[Resources], offers: list[Offer]) -> None:
    """The rows of one page: new ones, and new prices."""
    for offer in offers:
        await context.session.merge(Product(name=offer.name, price=offer.price))


async def import_pages(outside: Outside[Resources], products: ImportProducts) -> int:
    """The rows of a page and the cursor commit together, so no page is lost and none counts twice."""
    done, pages, rows = outside.cursor("pages", start=(0, 1, 0))
    while done < pages:
        page = await outside.call(fetch, outside.resources.supplier, done + 1, timeout=20)
        done, pages, rows = done + 1, page.pages, rows + len(page.products)
        await outside.advance("pages", (done, pages, rows), put_in, page.products)
        await outside.progress(done, of=pages, note=f"{rows} products")
    return rows


@job(outside=import_pages, timeout=600)
async def import_products(
    context: JobContext[Resources], products: ImportProducts, rows: int
) -> int:
    """All rows are in: the answer is how many."""
    return rows
