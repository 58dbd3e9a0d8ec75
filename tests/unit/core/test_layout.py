"""Keys and run ids: pure functions that two deliveries agree on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import InvalidEventError
from millrace.layout import (
    incoming_key,
    model_of_incoming,
    run_id_for_retrain,
    run_id_for_upload,
)

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x1f%"), min_size=1, max_size=40)


@given(key=_TEXT, version=_TEXT, other=_TEXT)
def test_a_run_id_is_a_valid_execution_name_and_names_the_object_version(
    key: str, version: str, other: str
) -> None:
    name = run_id_for_upload("churn", "bucket", key, version)

    assert re.fullmatch(r"[A-Za-z0-9-]{1,80}", name)
    assert name == run_id_for_upload("churn", "bucket", key, version)
    assert (name == run_id_for_upload("churn", "bucket", key, other)) == (version == other)


def test_uploads_and_retrainings_never_share_a_run() -> None:
    assert run_id_for_retrain("churn", "a") != run_id_for_upload("churn", "a", "", "")


def test_an_incoming_key_leads_back_to_its_model() -> None:
    assert model_of_incoming(incoming_key("churn", "2026/may.csv")) == "churn"


@pytest.mark.parametrize(
    "key", ["incoming/churn", "incoming/churn/", "other/churn/a.csv", "incoming/Churn!/a.csv"]
)
def test_a_key_for_no_model_is_refused(key: str) -> None:
    with pytest.raises(InvalidEventError, match=r"incoming|model name"):
        model_of_incoming(key)
