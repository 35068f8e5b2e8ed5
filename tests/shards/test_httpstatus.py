"""Checks that a status is read one way, whoever asks."""

import pytest

from unibrivl.shards.httpstatus import Answer, answer_of, status_of


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (429, Answer.WAIT), (503, Answer.AGAIN), (500, Answer.AGAIN), (599, Answer.AGAIN), (408, Answer.AGAIN),
        (425, Answer.AGAIN), (401, Answer.REFUSED), (403, Answer.REFUSED), (405, Answer.REFUSED),
        (407, Answer.REFUSED), (451, Answer.REFUSED), (410, Answer.GONE), (404, Answer.ABSENT), (400, Answer.ABSENT),
        (304, Answer.ABSENT),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, answer: Answer) -> None:
    assert answer_of(status) is answer


def test_a_busy_server_that_says_when_to_come_back_wants_a_pause() -> None:
    assert answer_of(503, asks_to_wait=True) is Answer.WAIT
    assert answer_of(404, asks_to_wait=True) is Answer.ABSENT


class HttpError(Exception):
    def __init__(self, **values: object) -> None:
        super().__init__("told by a library")
        self.__dict__ |= values


@pytest.mark.parametrize(
    "values",
    [
        {"status": 404},  # aiohttp
        {"code": 404},  # gcsfs
        {"status_code": 404, "code": "BlobNotFound"},  # Azure
        {"response": {"ResponseMetadata": {"HTTPStatusCode": 404}}},  # botocore
    ],
)
def test_where_libraries_keep_the_status(values: dict[str, object]) -> None:
    assert status_of(HttpError(**values)) == 404


@pytest.mark.parametrize("values", [{}, {"status": "x"}, {"code": 7}, {"response": None}, {"response": {}}])
def test_an_error_without_a_status(values: dict[str, object]) -> None:
    assert status_of(HttpError(**values)) is None
