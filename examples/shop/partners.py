"""Stands in for two services of other companies: one charges cards, the other one has a catalogue of products.

`uvicorn partners:partners --port 9000` runs both, in a process of their own. As with the test cards of real payment
services, the card says how a charge goes:

- `card_declined` is refused: the job becomes a dead letter that says why.
- `card_busy` gets 503 the first time: the job is tried again, with the same idempotency key.
- `card_slow` is charged, and the first call hears nothing of it: the job gives up, is tried again with the same key, and
  gets the charge that was made.
- any other card is charged.
"""

from typing import Annotated
from uuid import UUID, uuid4

from fastapi import FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, PositiveInt

PRODUCTS = {"teapot": 2500, "cup": 600, "saucer": 300, "spoon": 250, "tray": 1800, "sieve": 450}
ON_A_PAGE = 2

partners = FastAPI(title="Partners")
asked: list[str] = []  # what they were asked for, in turn
known: dict[str, "NewCharge"] = {}  # by idempotency key
charges: dict[str, "Charge"] = {}  # by idempotency key


class NewCharge(BaseModel):
    order: UUID
    amount: PositiveInt
    card: str


class Charge(NewCharge):
    id: str
    key: str


@partners.post("/charges", status_code=201)
async def charge(
    new: NewCharge, request: Request, idempotency_key: Annotated[str, Header()]
) -> Charge:
    """Charge once for each key: the same request gets the same answer, another one with this key is refused."""
    asked.append(f"charge {idempotency_key}")
    is_first = asked.count(asked[-1]) == 1
    if known.setdefault(idempotency_key, new) != new:
        raise HTTPException(422, "this idempotency key belongs to another charge")
    if new.card == "card_declined":
        raise HTTPException(402, "insufficient funds")
    if new.card == "card_busy" and is_first:
        raise HTTPException(503, "busy, try again")
    made = charges.setdefault(
        idempotency_key, Charge(id=f"ch_{uuid4().hex}", key=idempotency_key, **new.model_dump())
    )
    if new.card == "card_slow" and is_first:
        await request.receive()  # charged, but the caller hears nothing of it, until it hangs up
    return made


@partners.get("/charges")
async def list_charges() -> list[Charge]:
    """All charges that were made."""
    return list(charges.values())


@partners.get("/products")
async def list_products(page: PositiveInt = 1) -> dict[str, object]:
    """A page of the catalogue, and how many pages there are."""
    asked.append(f"page {page}")
    begin = (page - 1) * ON_A_PAGE
    some = list(PRODUCTS.items())[begin : begin + ON_A_PAGE]
    return {
        "products": [{"name": name, "price": price} for name, price in some],
        "pages": -(-len(PRODUCTS) // ON_A_PAGE),
    }


@partners.get("/asked")
async def list_asked() -> list[str]:
    """What they were asked for: the tests count the calls."""
    return asked
