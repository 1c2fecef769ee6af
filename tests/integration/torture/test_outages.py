"""Each server in turn, and two at once, is away for seconds, under traffic; the service is never restarted by hand."""

import pytest

from embedded import EmbeddedPostgres
from tests.servers import Servers, leave_out_for
from torture import outages
from torture.outages import Planned

# Some longer than the session timeout (3 s) and max.poll.interval (6 s) of the tortured service.
PLAN = (
    Planned([outages.postgres_stopped], 2),
    Planned([outages.postgres_unreachable], 7),
    Planned([outages.postgres_read_only], 2),
    Planned([outages.postgres_connections_cut], 2),
    Planned([outages.postgres_disk_full], 2),
    Planned([outages.postgres_deadlocks], 3),
    Planned([outages.postgres_serialization_failures], 2),
    Planned([outages.kafka_stopped], 4),
    Planned([outages.kafka_leader_unavailable], 3),
    Planned([outages.redis_stopped], 2),
    Planned([outages.redis_slow], 2),
    Planned([outages.redis_full], 2),
    Planned([outages.redis_flushed], 2),
    Planned([outages.postgres_killed, outages.redis_hung], 4),
    Planned([outages.postgres_hung, outages.kafka_unreachable], 7),
)


@pytest.mark.apache_kafka
def test_after_every_outage_all_is_as_if_it_had_not_been_and_during_it_nobody_was_told_wrong(servers: Servers) -> None:
    leave_out_for(servers.why_no_native_kafka)
    leave_out_for(EmbeddedPostgres.why_no_small_disk())
    tally = outages.outages(seed=21, plan=PLAN)
    tally.assert_faultless()
    assert tally.faults.total() == len(PLAN)
