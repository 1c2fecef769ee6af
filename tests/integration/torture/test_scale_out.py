"""Three replicas share the work while they are killed, added, restarted, misnamed and frozen; one relay at a time."""

import pytest

from tests.servers import Servers, leave_out_for
from torture.scale_out import scaled_out


@pytest.mark.apache_kafka
def test_replicas_come_go_freeze_and_share_a_name_and_the_group_goes_on(servers: Servers) -> None:
    leave_out_for(servers.why_no_native_kafka)
    tally = scaled_out(seed=21)
    tally.assert_faultless()
    assert tally.faults == {
        "replica killed": 1,
        "replica added": 1,
        "replica restarted": 3,
        "two replicas of one name": 1,
        "replica frozen in a transaction": 1,
    }
