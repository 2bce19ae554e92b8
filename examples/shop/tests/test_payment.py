"""What a charge does, and what it does when something goes wrong. The card says how the payment service answers."""

from dataclasses import replace
from uuid import uuid4

import httpx
import partners
import pytest

from db.models import Order
from jobs.packing import PackOrder
from jobs.payment import ChargeCard
from jobs.resources import Resources
from ledgerq.tables import DeadLetter
from ledgerq.testing import JobNotCompleted, JobTester


async def test_a_paid_order_is_packed_next(
    job_tester: JobTester, resources: Resources, order: Order
) -> None:
    """The charge, its record, the order's status and the next job."""
    charge_id = await job_tester.run(ChargeCard(order_id=order.id, card="card_ok"), job_id="pay")
    [charge] = partners.charges.values()
    assert (charge.id, charge.order, charge.amount) == (charge_id, order.id, 2500)
    [paid] = await job_tester.rows(Order)
    assert (paid.status, paid.charge_id) == ("paid", charge_id)
    assert await job_tester.staged() == [PackOrder(order_id=order.id)]
    assert [each.action for each in await job_tester.entries("pay")] == ["step", "update"]


async def test_a_worker_that_dies_after_the_charge_charges_once(
    job_tester: JobTester, resources: Resources, order: Order
) -> None:
    """The answer was recorded: the service is not even asked again."""
    payload = ChargeCard(order_id=order.id, card="card_ok")
    await job_tester.crash(payload, job_id="pay", moment="before commit")
    await job_tester.deliver_again("pay")
    assert len(partners.asked) == len(partners.charges) == 1
    [paid] = await job_tester.rows(Order)
    assert paid.status == "paid"


async def test_a_busy_payment_service_is_asked_again_with_the_same_key(
    job_tester: JobTester, resources: Resources, order: Order
) -> None:
    """5xx is no answer."""
    payload = ChargeCard(order_id=order.id, card="card_busy")
    with pytest.raises(JobNotCompleted, match="503") as failed:
        await job_tester.run(payload, job_id="pay")
    assert isinstance(failed.value.__cause__, httpx.HTTPStatusError)
    await job_tester.deliver_again("pay")
    assert len(partners.asked) == 2
    assert len(set(partners.asked)) == len(partners.charges) == 1


async def test_a_payment_service_that_is_silent_is_asked_again(
    job_tester: JobTester, resources: Resources, order: Order
) -> None:
    """The client's own timeout."""

    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("silent", request=request)

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(silent), base_url="http://partners"
    ) as client:
        job_tester.resources = replace(resources, payments=client)
        with pytest.raises(JobNotCompleted, match="is to be tried again"):
            await job_tester.run(ChargeCard(order_id=order.id, card="card_ok"), job_id="pay")
    job_tester.resources = resources
    await job_tester.deliver_again("pay")
    assert len(partners.charges) == 1


async def test_a_refused_card_is_final(
    job_tester: JobTester, resources: Resources, order: Order
) -> None:
    """The dead letter says why; another card is another job."""
    with pytest.raises(JobNotCompleted, match="insufficient funds"):
        await job_tester.run(ChargeCard(order_id=order.id, card="card_declined"))
    [letter] = await job_tester.rows(DeadLetter)
    [problem] = letter.problems
    assert problem["field"] == "card"
    assert "refused (402)" in problem["problem"]
    await job_tester.run(ChargeCard(order_id=order.id, card="card_ok"))
    assert len(partners.charges) == 1


async def test_an_order_that_is_not_there_is_not_charged(
    job_tester: JobTester, resources: Resources
) -> None:
    """Nobody is asked."""
    with pytest.raises(JobNotCompleted, match="there is no order"):
        await job_tester.run(ChargeCard(order_id=uuid4(), card="card_ok"))
    assert partners.asked == []


async def test_a_key_belongs_to_one_charge(resources: Resources) -> None:
    """The payment service refuses another charge with it, as real ones do."""
    charge = {"order": str(uuid4()), "amount": 100, "card": "card_ok"}
    key = {"Idempotency-Key": "one"}
    first = await resources.payments.post("/charges", json=charge, headers=key)
    again = await resources.payments.post("/charges", json=charge, headers=key)
    assert first.json() == again.json()
    other = await resources.payments.post("/charges", json={**charge, "amount": 9}, headers=key)
    assert other.status_code == 422
    assert len(partners.charges) == 1
