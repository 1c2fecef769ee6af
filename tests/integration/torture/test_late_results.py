"""Grace outlives restarts, stands while the group lags, and is counted and announced once by however many replicas."""

import pytest

from tests.servers import Servers, leave_out_for
from torture.late_results import late_results


@pytest.mark.apache_kafka
def test_grace_is_counted_once_from_stored_facts_and_only_while_the_group_is_caught_up(servers: Servers) -> None:
    leave_out_for(servers.why_no_native_kafka)
    batches = 20
    tally = late_results(seed=22, batches=batches)
    tally.assert_faultless()
    assert tally.faults["result in the last moment"] == batches - 1
