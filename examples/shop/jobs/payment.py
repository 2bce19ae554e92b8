"""The customer's card is charged before the order is packed. The payment service is asked outside of the transaction."""

from uuid import UUID

import httpx
from pydantic import BaseModel

from db.models import Order
from jobs.packing import PackOrder
from jobs.resources import Resources
from ledgerq import JobContext, Outside, Payload, Permanent, job
from ledgerq.sessions import LedgerqSession

TRIED_AGAIN = {408, 409, 425, 429}  # busy with this very charge, or with too many


class ChargeCard(Payload[str], kind="charge_card"):
    """Charge a card for an order. The job answers with the id of the charge.

    The card is a token of the payment service. Another card is another payload, and so another idempotency key.
    """

    order_id: UUID
    card: str


class Charge(BaseModel):
    """What the payment service answers."""

    id: str
    amount: int


async def price_of(session: LedgerqSession, order_id: UUID) -> int:
    """What the order costs."""
    order = await session.get(Order, order_id)
    if order is None:
        raise Permanent(f"there is no order {order_id}")
    return order.price


async def ask_for_charge(
    payments: httpx.AsyncClient, order_id: UUID, amount: int, card: str, *, idempotency_key: str
) -> Charge:
    """One call. A refusal is final; if the service fails or does not answer in time, the job is tried again."""
    answer = await payments.post(
        "/charges",
        json={"order": str(order_id), "amount": amount, "card": card},
        headers={"Idempotency-Key": idempotency_key},
    )
    if answer.is_client_error and answer.status_code not in TRIED_AGAIN:
        problem = f"the payment service refused ({answer.status_code}): {answer.text}"
        raise Permanent(problem, field="card")
    answer.raise_for_status()
    return Charge.model_validate_json(answer.content)


async def charge(outside: Outside[Resources], charge: ChargeCard) -> Charge:
    """Runs first: no transaction is open and no connection is held while the payment service thinks."""
    amount = await outside.read(price_of, charge.order_id)
    return await outside.step(
        "charge",
        ask_for_charge,
        outside.resources.payments,
        charge.order_id,
        amount,
        charge.card,
        idempotency_key=outside.key("charge"),
        timeout=20,
    )


@job(outside=charge, timeout=60)
async def charge_card(context: JobContext[Resources], charge: ChargeCard, made: Charge) -> str:
    """The order is paid, and its packing is staged: both commit together."""
    order = await context.session.get_one(Order, charge.order_id, with_for_update=True)
    order.charge_id, order.status = made.id, "paid"
    await context.stage(PackOrder(order_id=order.id), job_id=f"shop:pack:{order.id}")
    return made.id
