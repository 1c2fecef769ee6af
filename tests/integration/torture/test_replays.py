"""Replays beside a service under traffic, killed in their midst, and into an empty database."""

import pytest

from tests.servers import Servers, leave_out_for
from torture.replays import replays


@pytest.mark.apache_kafka
def test_a_replay_loses_nothing_announces_nothing_again_and_rebuilds_the_same_rows(servers: Servers) -> None:
    leave_out_for(servers.why_no_native_kafka)
    tally = replays(seed=41, messages=1000, kills=1)
    tally.assert_faultless()
    assert tally.faults.total() == 3
