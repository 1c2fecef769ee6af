"""Mutants of the real messages go through Kafka and the whole process, beside traffic that must not notice them."""

import pytest

from tests.servers import Servers, leave_out_for
from torture.bad_messages import bad_messages, retried_after_a_fix


@pytest.mark.apache_kafka
def test_mutants_one_in_three_stop_nothing_and_harm_no_neighbour(servers: Servers) -> None:
    leave_out_for(servers.why_no_native_kafka)
    tally = bad_messages(seed=31, number=600, one_in=3)
    tally.assert_faultless()
    assert tally.faults["mutant"] == 600


@pytest.mark.apache_kafka
def test_what_went_to_quarantine_by_a_wrong_setting_is_folded_by_a_retry_as_if_it_had_been_right(
    servers: Servers,
) -> None:
    leave_out_for(servers.why_no_native_kafka)
    tally = retried_after_a_fix(seed=32, messages=200)
    tally.assert_faultless()
    assert tally.faults["message refused"] > 50
