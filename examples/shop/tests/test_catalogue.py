"""The import of the supplier's catalogue, page by page."""

import partners
import pytest

from db.models import Product
from jobs.catalogue import ImportProducts
from jobs.resources import Resources
from ledgerq.testing import JobNotCompleted, JobTester


async def stock(job_tester: JobTester) -> dict[str, int]:
    return {each.name: each.price for each in await job_tester.rows(Product)}


async def test_all_pages_come_in(job_tester: JobTester, resources: Resources) -> None:
    """Once more, and they are as before: no product is there twice, and no entry is written."""
    assert await job_tester.run(ImportProducts()) == len(partners.PRODUCTS)
    assert await stock(job_tester) == partners.PRODUCTS
    before = len(await job_tester.entries())
    await job_tester.run(ImportProducts(), job_id="again")
    assert await stock(job_tester) == partners.PRODUCTS
    again = await job_tester.entries("again")
    assert {each.entity_type for each in again} == {"job"}
    assert before > len(again)


async def test_it_goes_on_after_the_last_page_that_is_in(
    job_tester: JobTester, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supplier failed at the third page: the first two are not asked for again."""
    with monkeypatch.context() as patch:
        patch.setattr(partners, "PRODUCTS", {**partners.PRODUCTS, "tray": -1})  # no price
        with pytest.raises(JobNotCompleted):
            await job_tester.run(ImportProducts(), job_id="import")
    assert len(await stock(job_tester)) == 2 * partners.ON_A_PAGE
    await job_tester.deliver_again("import")
    assert await stock(job_tester) == partners.PRODUCTS
    assert partners.asked == ["page 1", "page 2", "page 3", "page 3"]
