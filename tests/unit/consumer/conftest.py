"""Sets how hard Hypothesis looks before any property is collected."""

import tests.hypothesis_profiles  # noqa: F401
