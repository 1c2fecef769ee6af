"""The documentation says what the code does: every setting with its default, every link to a file that is there."""

import re
from pathlib import Path

import pytest

from result_aggregator_service.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS_TABLE = (ROOT / "docs" / "settings.md").read_text()
ROWS = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", SETTINGS_TABLE, re.MULTILINE))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert sorted(ROWS) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, (int, float)) and field.default
    ],
)
def test_the_documented_default_of_a_number_is_the_real_one(name: str) -> None:
    default = Settings.model_fields[name].default
    documented = ROWS[name.upper()].strip("`")
    assert documented == (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
