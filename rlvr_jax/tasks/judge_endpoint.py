"""Questions to an OpenAI-compatible endpoint, many at a time, with patience but without ever raising for its faults."""

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rlvr_jax.tasks.judge_cache import JudgeBudget

MAX_FAILED_IN_A_ROW = 8  # questions: an endpoint that is down must not take hours to say so
_TRANSIENT = (408, 409, 425, 429)  # and all of 500 and above
_OF_ONE_QUESTION = (400, 413, 422)  # such as one that is too long, which says nothing of the next
_SHOWN = 200  # characters of what an endpoint says of a failure


@dataclass(frozen=True)
class NoAnswer:
    """Why a question has no answer."""

    why: str


class _Failed(Exception):
    """One request that failed; `is_transient` if the same one may succeed later, `after_s` if it says when."""

    def __init__(self, why: str, *, is_transient: bool, after_s: float = 0.0, is_of_one_question: bool = False):
        super().__init__(why)
        self.is_transient, self.after_s, self.is_of_one_question = is_transient, after_s, is_of_one_question


class JudgeEndpoint:
    """Asks one model at one address."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        concurrency: int,
        timeout_s: float,
        n_retries: int,
        backoff_s: float,
        longest_wait_s: float,
        budget: JudgeBudget,
    ):
        """Raises ValueError if the client's package is missing.

        Args:
            concurrency: requests under way at a time.
            timeout_s: of one request, all of it.
            n_retries: of a request that failed in a way that may pass.
            backoff_s: before the first retry, about; twice that before the second, and so on.
            longest_wait_s: before any retry; one that is asked to wait longer is given up.
        """
        try:
            import openai  # noqa: F401  here, not above: it is optional and takes half a second
        except ModuleNotFoundError as error:
            raise ValueError(f"the reward 'judge' needs the package openai ({error}); pip install openai") from error
        self._base_url, self._api_key = base_url, api_key
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._n_retries, self._backoff_s, self._longest_wait_s = n_retries, backoff_s, longest_wait_s
        self._budget = budget

    def ask(self, requests: Sequence[dict[str, Any]], on_answer: Callable[[int, str], None]) -> list[str | NoAnswer]:
        """What the model says to each request, or why it says nothing.

        After MAX_FAILED_IN_A_ROW questions in a row for which the endpoint was at fault, the others are not asked.

        Args:
            requests: arguments of a chat completion.
            on_answer: is told each answer and its request's index as soon as it is there.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._ask_all(requests, on_answer))
        with ThreadPoolExecutor(1) as pool:  # a notebook has a loop of its own in this thread
            return pool.submit(lambda: asyncio.run(self._ask_all(requests, on_answer))).result()

    async def _ask_all(self, requests: Sequence[dict], on_answer: Callable[[int, str], None]) -> list[str | NoAnswer]:
        import openai

        self._not_before_s, self._n_failed_in_a_row = 0.0, 0
        places = asyncio.Semaphore(self._concurrency)
        client = openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._api_key,
            timeout=self._timeout_s,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),  # each would be a request of its own
        )

        async def answer(i: int) -> str | NoAnswer:
            async with places:
                found = await self._with_retries(client, requests[i])
            if isinstance(found, str):
                on_answer(i, found)
            return found

        async with client:
            return await asyncio.gather(*(answer(i) for i in range(len(requests))))

    async def _with_retries(self, client: Any, request: dict[str, Any]) -> str | NoAnswer:
        for attempt in range(self._n_retries + 1):
            if self._n_failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                return NoAnswer(f"not asked after {MAX_FAILED_IN_A_ROW} failures in a row, the last: {self._last_why}")
            # one that is told to wait speaks for all; a little apart, so that they do not all come back at once
            while (wait_s := self._not_before_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s + random.uniform(0.0, 0.1 * self._backoff_s))
            if refusal := self._budget.take():
                return NoAnswer(refusal)
            try:
                said = await self._once(client, request)
            except _Failed as failed:
                why = str(failed)
                wait_s = max(failed.after_s, self._backoff_s * 2**attempt * random.uniform(0.5, 1.0))
                if failed.after_s > self._longest_wait_s:
                    why += f"; it asks to wait {failed.after_s:.0f} s, beyond the {self._longest_wait_s:g} s of "
                    why += "task.judge.longest_wait_s"
                elif failed.is_transient and attempt < self._n_retries:
                    wait_s = max(failed.after_s, min(wait_s, self._longest_wait_s))
                    if failed.after_s:
                        self._not_before_s = max(self._not_before_s, time.monotonic() + wait_s)
                    else:
                        await asyncio.sleep(wait_s)
                    continue
                if not failed.is_of_one_question:
                    self._n_failed_in_a_row, self._last_why = self._n_failed_in_a_row + 1, why
                return NoAnswer(why + (f" (tried {attempt + 1} times)" if attempt else ""))
            self._n_failed_in_a_row = 0
            return said
        raise AssertionError("the last attempt returns")

    async def _once(self, client: Any, request: dict[str, Any]) -> str:
        import openai

        try:
            async with asyncio.timeout(self._timeout_s):  # the client's own timeout is of each read, not of all of them
                raw = await client.chat.completions.with_raw_response.create(**request)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise _Failed(f"no answer within task.judge.timeout_s={self._timeout_s:g} s", is_transient=True) from error
        except openai.APIStatusError as error:
            to = error.response.headers.get("location") if 300 <= error.status_code < 400 else None
            says = f"it redirects to {to}, which task.judge.base_url should name itself" if to else error.message
            raise _Failed(
                f"HTTP {error.status_code}: {self._shown(str(says))}",
                is_transient=error.status_code in _TRANSIENT or error.status_code >= 500,
                after_s=_retry_after_s(error.response.headers.get("retry-after")),
                is_of_one_question=error.status_code in _OF_ONE_QUESTION,
            ) from error
        except Exception as error:  # whatever the client's layers raise of a connection, the run goes on
            cause = error.__cause__ or error
            why = f"{type(cause).__name__}: {self._shown(str(cause))}"
            raise _Failed(f"no connection to {self._base_url} ({why})", is_transient=True) from error
        return self._content(raw.http_response.content)  # not its text: the header may name any codec of Python's

    def _content(self, body: bytes) -> str:
        """The text of an answer, whose tokens are counted. Raises _Failed at a body that is none."""
        try:
            answer = json.loads(body)
            self._count_tokens(answer)
            choice = answer["choices"][0]
            said = choice["message"].get("content")
            if said is not None and not isinstance(said, str):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            why = f"what came back is no chat completion: {self._shown(body.decode('utf-8', 'replace'))!r}"
            raise _Failed(why, is_transient=True) from error
        if said is None:  # as of a model that spent its tokens on thinking; asked again it would spend them again
            end = self._shown(str(choice.get("finish_reason")))
            why = f"the answer has no text (finish_reason {end}); task.judge.max_tokens may be too small"
            raise _Failed(why, is_transient=False, is_of_one_question=True)
        return said

    def _count_tokens(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage")
        n_tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        try:
            self._budget.add_tokens(n_tokens if isinstance(n_tokens, int) and n_tokens >= 0 else 0)
        except OSError as error:
            raise _Failed(f"the judge's budget cannot be counted ({error.strerror})", is_transient=False) from error

    def _shown(self, text: str) -> str:
        """A text in short and without the key, since endpoints quote what they were sent."""
        without_key = text.replace(self._api_key, "(key)") if self._api_key else text  # before a part of it is cut off
        words = " ".join(without_key.split())
        return words if len(words) <= _SHOWN else words[:_SHOWN] + "..."


def _retry_after_s(header: str | None) -> float:
    """Seconds from a Retry-After header, which is a number or a date; 0 without one that can be read."""
    try:
        return max(0.0, float(header))
    except (TypeError, ValueError):
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
