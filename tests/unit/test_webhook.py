"""How an event is signed and posted, and which settings a webhook takes."""

import asyncio
import time
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from jobs.notify import Assignee, Assignment, TaskAssigned
from ledgerq import Permanent, RetryLater
from ledgerq.errors import SettingError
from ledgerq.settings import load, variables
from worker.settings import WebhookSettings
from worker.webhook import HttpWebhook, seconds_until, signature

ROOT = Path(__file__).resolve().parents[2]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "https://hooks.example.com/hunter2"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A URL and a secret in the environment."""
    monkeypatch.setenv("TASKMANAGER_WEBHOOK_URL", URL)
    monkeypatch.setenv("TASKMANAGER_WEBHOOK_SECRET", SECRET)
    return monkeypatch


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of its libraries' tests."""
    content = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    made = signature(b64decode(SECRET.removeprefix("whsec_")), content)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_settings_there_is_no_webhook() -> None:
    """Nothing has to be set."""
    assert load(WebhookSettings).url is None


def test_the_docs_name_each_setting() -> None:
    """With its default."""
    page = (ROOT / "docs" / "taskmanager.md").read_text()
    for variable, field in variables(WebhookSettings).items():
        default = WebhookSettings.model_fields[field].default
        assert f"| `{variable}` | {'none' if default is None else f'{default:g}'} |" in page


def test_two_secrets_sign_while_one_replaces_the_other(settings: pytest.MonkeyPatch) -> None:
    """The receiver may know either."""
    settings.setenv("TASKMANAGER_WEBHOOK_SECRET", f"{SECRET} whsec_{b64encode(b'x' * 32).decode()}")
    assert [len(key) for key in load(WebhookSettings).keys] == [24, 32]


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("URL", "ftp://hunter2", "TASKMANAGER_WEBHOOK_URL"),
        ("URL", "hunter2", "TASKMANAGER_WEBHOOK_URL"),
        ("URL", "", "TASKMANAGER_WEBHOOK_SECRET: goes with TASKMANAGER_WEBHOOK_URL"),
        ("SECRET", "", "TASKMANAGER_WEBHOOK_SECRET: goes with TASKMANAGER_WEBHOOK_URL"),
        ("SECRET", "hunter2", "TASKMANAGER_WEBHOOK_SECRET: is no secret of a webhook"),
        ("SECRET", "whsec_hunter2", "TASKMANAGER_WEBHOOK_SECRET: is no secret of a webhook"),
        ("SECRET", "whsec_aHVudGVyMg==", "TASKMANAGER_WEBHOOK_SECRET: is no secret of a webhook"),
        ("SECRET", f"{SECRET} hunter2", "TASKMANAGER_WEBHOOK_SECRET: is no secret of a webhook"),
        ("TIMEOUT", "31", "TASKMANAGER_WEBHOOK_TIMEOUT"),
        ("TIMEOUT", "0", "TASKMANAGER_WEBHOOK_TIMEOUT"),
    ],
)
def test_a_wrong_setting_is_named_and_not_repeated(
    settings: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    """Secrets and URLs must not reach the log."""
    settings.setenv(f"TASKMANAGER_WEBHOOK_{variable}", value)
    with pytest.raises(SettingError) as refused:
        load(WebhookSettings)
    assert str(refused.value).startswith(told)
    assert "set it to" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "MfKQ" not in str(refused.value)


def test_settings_do_not_show_what_is_secret(settings: pytest.MonkeyPatch) -> None:
    """If a program prints them."""
    shown = repr(load(WebhookSettings))
    assert "hunter2" not in shown
    assert "MfKQ" not in shown


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120), ("0", 0), ("", None), ("soon", None), ("-5", None)]
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    """What is neither seconds nor a date says nothing."""
    assert seconds_until(header) == seconds


def test_retry_after_as_a_date() -> None:
    """A date in the past is now."""
    later = seconds_until(formatdate(time.time() + 100, usegmt=True))
    assert later is not None
    assert 90 < later <= 100
    assert seconds_until(formatdate(time.time() - 100, usegmt=True)) == 0


EVENT = TaskAssigned(
    timestamp=datetime(2026, 1, 1, tzinfo=UTC),
    data=Assignment(task_id=1, title="Write", assignee=Assignee(id=1, name="Ada")),
)


async def post(answer: httpx.Response | float, *, attempt: int = 1) -> int:
    """Post an event to a webhook that answers so; a number is how many seconds it is silent."""

    async def answered(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return httpx.Response(200)
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(answered)) as client:
        webhook = HttpWebhook(client, URL, [b"key"], timeout=0.01)
        return await webhook.post(EVENT, idempotency_key="key", attempt=attempt)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_the_webhook_takes_an_event(status: int) -> None:
    """Whatever else it answers is not read."""
    assert await post(httpx.Response(status)) == status


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422])
async def test_a_refusal_is_final(status: int) -> None:
    """To ask again can't help, also if the answer says when."""
    with pytest.raises(Permanent, match=f"the webhook answered {status}") as refused:
        await post(httpx.Response(status, headers={"Retry-After": "1"}))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("status", [301, 307, 408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(("header", "delay"), [("", 5), ("77", 77), ("0", 0), ("9" * 99, 86_400)])
async def test_what_may_pass_is_tried_again(status: int, header: str, delay: float) -> None:
    """When the webhook says, a day at most; or else after a pause of ours. No redirect is followed."""
    headers = {"Retry-After": header} if header else {}
    with pytest.raises(RetryLater, match=f"^the webhook answered {status}$") as later:
        await post(httpx.Response(status, headers={**headers, "Location": "https://elsewhere/"}))
    assert later.value.delay == delay


@pytest.mark.parametrize(
    ("attempt", "delay"), [(1, 5), (2, 300), (3, 1_800), (4, 7_200), (9, 7_200)]
)
async def test_a_silent_webhook_is_asked_again_ever_later(attempt: int, delay: float) -> None:
    """After the timeout of one call."""
    with pytest.raises(RetryLater, match="no answer: TimeoutError") as later:
        await post(60.0, attempt=attempt)
    assert later.value.delay == delay
