"""`python -m demo`: the whole service, live, with real traffic and a referee. See --help; `make demo` calls it."""

import argparse
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from types import FrameType

import httpx

from demo.observer import Observer
from demo.oracle import Oracle
from demo.performance import Performance, PerformanceError, perform
from demo.player import Player, PlayerError
from demo.report import STAND_INS, Report
from demo.stage import Stage, stage
from demo.traffic import traffic
from embedded.process import ServerError

_GRACE_SECONDS = 6.0
_DEPLOYED_GRACE_SECONDS = 60.0
_GROUP_ID = "result-aggregator-group"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the demo; the exit status is 1 if the service did not do what the oracle expects."""
    arguments = _arguments()
    report = Report()
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        return _against(arguments, report) if arguments.against else _on_stage(arguments, report)
    except KeyboardInterrupt:
        report.say("Stopped before its end.")
        return 128 + signal.SIGINT
    except (ServerError, PlayerError, PerformanceError, httpx.HTTPError) as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not break off the stopping of the servers.
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="The service with real traffic, and a referee.")
    parser.add_argument("--once", action="store_true", default=os.environ.get("ONCE", "") not in ("", "0"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--grace", type=float, help="the service's RESULTS_GRACE_SECONDS")
    parser.add_argument("--against", action="store_true", help="drive a service that runs elsewhere")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="with --against: its broker")
    parser.add_argument("--api", metavar="URL", help="with --against: its API")
    parser.add_argument("--api-key", metavar="KEY", help="with --against: its INTERNAL_API_KEY")
    parser.add_argument("--group", default=_GROUP_ID, help="with --against: its KAFKA_CONSUMER_GROUP_ID")
    arguments = parser.parse_args()
    if arguments.against and not (arguments.kafka and arguments.api and arguments.api_key):
        parser.error("--against needs --kafka, --api and --api-key")
    return arguments


def _on_stage(arguments: argparse.Namespace, report: Report) -> int:
    grace = arguments.grace if arguments.grace is not None else _GRACE_SECONDS
    report.say(STAND_INS)
    report.say("Starting the servers and the service ...")
    with stage(grace) as running:

        def check_service() -> None:
            if not running.service.is_running:
                raise ServerError(f"the service has ended\n{running.service.log_tail()}")

        with (
            Player(running.bootstrap_servers, _GROUP_ID) as player,
            Observer(running.api_url, running.api_key) as observer,
        ):
            try:
                outcome = _perform(arguments, report, player, observer, grace, "demo", check_service)
            except (PlayerError, PerformanceError, httpx.HTTPError):
                report.fail(f"The end of the service's log:\n{running.service.log_tail()}")
                raise
        report.result(outcome)
        report.verdict(outcome)
        report.say(STAND_INS)
        if not arguments.once:
            _keep_serving(running, outcome, report, check_service)
    return 1 if outcome.differences else 0


def _against(arguments: argparse.Namespace, report: Report) -> int:
    grace = arguments.grace if arguments.grace is not None else _DEPLOYED_GRACE_SECONDS
    run = uuid.uuid4().hex[:8]
    report.say(f"Driving {arguments.api}; the run's label is {run}.")
    with Player(arguments.kafka, arguments.group) as player, Observer(arguments.api, arguments.api_key) as observer:

        def check_service() -> None:
            if not observer.is_ready():
                raise PerformanceError("the service is not ready")

        check_service()
        observer.batch(f"no-batch-of-{run}")  # a wrong key should show before the messages are played
        outcome = _perform(arguments, report, player, observer, grace, run, check_service)
    report.result(outcome)
    report.verdict(outcome)
    return 1 if outcome.differences else 0


def _perform(
    arguments: argparse.Namespace,
    report: Report,
    player: Player,
    observer: Observer,
    grace_seconds: float,
    run: str,
    check_service: Callable[[], None],
) -> Performance:
    messages = list(traffic(seed=arguments.seed, batches=arguments.batches, run=run))
    oracle = Oracle(messages)
    steps = (
        ("Played into Kafka", len(messages)),
        ("Folded by the service", len(messages)),
        ("Batches as they should be", len(oracle.batch_ids())),
    )
    with report.progress(*steps) as (playing, folding, settling):
        return perform(
            messages,
            oracle,
            player,
            observer,
            grace_seconds=grace_seconds,
            playing=playing,
            folding=folding,
            settling=settling,
            check_service=check_service,
        )


def _keep_serving(running: Stage, outcome: Performance, report: Report, check_service: Callable[[], None]) -> None:
    batch = next(answer for answer in outcome.answers.values() if answer is not None)
    report.how_to_look(running.api_url, running.api_key, batch["batch_id"], batch["user_id"])
    report.say(f"Kafka listens at {running.bootstrap_servers}.")
    report.say("\nServing until Ctrl-C.")
    try:
        while True:
            check_service()
            time.sleep(0.5)
    except KeyboardInterrupt:
        report.say("Stopping.")


if __name__ == "__main__":
    sys.exit(main())
