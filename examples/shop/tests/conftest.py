"""What the tests share: the worker's resources, with the partners in this process, and an order of Ada's."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import partners
import pytest

from db.models import Customer, Order
from jobs.resources import Mailbox, Resources
from ledgerq import Origin, acting_as
from ledgerq.testing import JobTester


@pytest.fixture
async def resources(job_tester: JobTester, tmp_path: Path) -> AsyncIterator[Resources]:
    """Those of the jobs in this test; the partners remember nothing of other tests."""
    for memory in (partners.asked, partners.known, partners.charges):
        memory.clear()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(partners.partners), base_url="http://partners"
    ) as client:
        job_tester.resources = Resources(Mailbox(tmp_path), payments=client, supplier=client)
        yield job_tester.resources


@pytest.fixture
async def order(job_tester: JobTester) -> Order:
    """An order of Ada's, placed."""
    ada = Customer(name="Ada", email="ada@example.com")
    order = Order(customer_id=ada.id, item="teapot", price=2500)
    async with job_tester.transaction() as session, acting_as(session, Origin("test")):
        session.add(ada)
        await session.flush()
        session.add(order)
    return order
