"""The process is killed at every step and at any moment; nothing is lost, changed, reordered or told differently."""

import pytest

from result_aggregator_service.failpoints import Failpoint
from tests.servers import Servers, leave_out_for
from torture.crashes import crashes

_RANDOM_KILLS = 30


@pytest.mark.apache_kafka
def test_killed_at_each_failpoint_and_at_any_moment_it_goes_on_as_if_nothing_had_been(servers: Servers) -> None:
    leave_out_for(servers.why_no_native_kafka)
    tally = crashes(seed=11, random_kills=_RANDOM_KILLS)
    tally.assert_faultless()
    assert tally.faults.total() == len(Failpoint) + _RANDOM_KILLS
