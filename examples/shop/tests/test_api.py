"""The endpoints and what they stage, without a server: the service uses the database of `job_tester`."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import partners
import pytest
from api import api

from db.models import Task
from jobs.catalogue import ImportProducts
from jobs.resources import Resources
from ledgerq.testing import JobTester


@pytest.fixture
async def http(job_tester: JobTester) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service."""
    api.state.database = job_tester.database
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api), base_url="http://shop"
    ) as http:
        yield http


async def test_an_order_is_placed_paid_packed_and_sent(
    http: httpx.AsyncClient, job_tester: JobTester, resources: Resources
) -> None:
    """Two mails tell of it, also if the packer clicks twice."""
    await job_tester.run(ImportProducts())
    ada = (await http.post("/customers", json={"name": "Ada", "email": "a@b.c"})).json()
    new = {"customer_id": ada["id"], "item": "teapot", "card": "card_ok"}
    order = (await http.post("/orders", json=new)).json()
    await job_tester.run_staged()
    [task] = await job_tester.rows(Task)
    for _ in range(2):
        await http.post(f"/tasks/{task.id}/done", params={"packer": "Bob"})
    await job_tester.run_staged()
    assert (await http.get(f"/orders/{order['id']}")).json() == {
        **order,
        "status": "sent",
        "charge_id": next(iter(partners.charges.values())).id,
    }
    assert len(list(resources.mailbox.folder.iterdir())) == 2


async def test_who_is_not_known_places_no_order(
    http: httpx.AsyncClient, job_tester: JobTester
) -> None:
    """404, and no job is staged."""
    new = {"customer_id": str(uuid4()), "item": "teapot", "card": "card_ok"}
    assert (await http.post("/orders", json=new)).status_code == 404
    assert await job_tester.staged() == []
