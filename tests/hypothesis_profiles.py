"""How hard Hypothesis looks, by HYPOTHESIS_PROFILE: `dev` (the default), `ci` (the default where CI is set), `long`.

`ci` draws the same examples in every run; each prints a blob on failure with which the example can be had again.
"""

import os

from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("dev", max_examples=60, deadline=None, print_blob=True, suppress_health_check=_QUIET)
settings.register_profile(
    "ci", max_examples=150, deadline=None, print_blob=True, derandomize=True, suppress_health_check=_QUIET
)
settings.register_profile("long", max_examples=2_500, deadline=None, print_blob=True, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def examples(share: float) -> settings:
    """A share of the profile's examples, for a property whose examples cost more or less than others'."""
    profile = settings()
    return settings(profile, max_examples=max(int(profile.max_examples * share), 1))
