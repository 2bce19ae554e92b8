"""Posts events over HTTP, signed as Standard Webhooks has it: https://www.standardwebhooks.com."""

import asyncio
import hmac
import logging
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import httpx
from pydantic import BaseModel

from ledgerq import Permanent, RetryLater
from worker.settings import WebhookSettings

_LATER = (5, 300, 1_800, 7_200)  # seconds after the first failed attempt, the second one, …
_LONGEST = 86_400  # seconds that an answer may make us wait
_NOT_FINAL = {408, 425, 429}  # of 400 to 499: too slow, too early, too many


class NotTaken(RetryLater):
    """The webhook did not take the event in this attempt; the job posts it again after `delay` seconds."""

    def __init__(self, problem: str, delay: float) -> None:
        super().__init__(delay)
        self.args = (problem,)


@asynccontextmanager
async def open_webhook(settings: WebhookSettings) -> AsyncIterator["HttpWebhook"]:
    """The webhook of these settings, with its HTTP client."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs, and ours may be a secret
    async with httpx.AsyncClient(timeout=settings.timeout) as client:
        yield HttpWebhook(client, str(settings.url), settings.keys, settings.timeout)


@dataclass(frozen=True)
class HttpWebhook:
    """The webhook at a URL."""

    client: httpx.AsyncClient
    url: str = field(repr=False)
    keys: Sequence[bytes] = field(repr=False)
    timeout: float

    async def post(self, event: BaseModel, *, idempotency_key: str, attempt: int) -> int:
        """As `jobs.notify.Webhook`. Of the answer, only the status and Retry-After are read."""
        body = event.model_dump_json().encode()
        request = self.client.build_request(
            "POST", self.url, content=body, headers=self._headers(idempotency_key, body)
        )
        later = _LATER[min(attempt, len(_LATER)) - 1]
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self.client.send(request, stream=True)
                await answer.aclose()
        except (httpx.TransportError, TimeoutError) as error:
            raise NotTaken(f"no answer: {type(error).__name__}", later) from error
        if answer.is_success:
            return answer.status_code
        problem = f"the webhook answered {answer.status_code}"
        if answer.is_client_error and answer.status_code not in _NOT_FINAL:
            raise Permanent(problem, field="webhook")
        asked = seconds_until(answer.headers.get("Retry-After", ""))
        raise NotTaken(problem, later if asked is None else min(asked, _LONGEST))

    def _headers(self, webhook_id: str, body: bytes) -> dict[str, str]:
        now = int(time.time())  # of this attempt: receivers refuse old ones
        content = f"{webhook_id}.{now}.".encode() + body
        return {
            "Content-Type": "application/json",
            "Idempotency-Key": webhook_id,
            "webhook-id": webhook_id,
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(signature(key, content) for key in self.keys),
        }


def signature(key: bytes, content: bytes) -> str:
    """The signature of one key."""
    return "v1," + b64encode(hmac.digest(key, content, "sha256")).decode()


def seconds_until(retry_after: str) -> float | None:
    """What a Retry-After header asks for, in seconds or as a date; None if it does neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
