"""Every command in the documentation runs: cheap ones are run, of the others every word is looked up where it is from.

A command of a form that is not known here fails: then teach this file how to look it up.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml
from alembic.config import CommandLine
from dishka import make_async_container

from result_aggregator_service.__main__ import main
from result_aggregator_service.api.openapi.document import openapi_document
from result_aggregator_service.app import create_app
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.tables import metadata
from tests.unit.markdown import PAGES, ROOT, fences_of, indented_of, spans_of

MAKEFILE = (ROOT / "Makefile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS = PYPROJECT["tool"]["pdm"]["scripts"]
SERVICE = "result_aggregator_service"
#: Where a block of this kind holds commands, one a line; a block without a word is what something printed.
_COMMANDS, _OTHER = {"sh", "console"}, {"", "mermaid", "diff", "sql", "json", "python", "yaml", "text", "promql"}
#: So begins what is a command within a sentence.
_STARTS = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:make|python|pdm|alembic|docker|pytest|curl|git|pre-commit|promtool|\.ci/run)(?: |$)"
)
_SQL = re.compile(r"(?:SELECT|UPDATE|INSERT|DELETE|ALTER|CREATE|DROP|REINDEX|VACUUM|SET)\b")
#: Options of other people's programs that the documentation uses; their manuals tell what they are for.
_OPTIONS = {
    "docker compose up": {"--build", "--detach", "--wait"},
    "docker compose down": {"--volumes"},
    "docker compose run": {"--rm"},
    "docker compose logs": {"--follow", "--since", "--tail"},
    "docker compose ps": set(),
    "docker compose exec": set(),
    "pytest": {"-k", "-x", "-n"},
    "curl": {"-H"},
}


def found() -> Iterator[tuple[str, str]]:
    """Every command of every page, with the page's name."""
    for page in PAGES:
        text, name = page.read_text(), str(page.relative_to(ROOT))
        for language, block in fences_of(text):
            if language in _COMMANDS:
                yield from ((name, line) for line in _lines(block))
        for block in indented_of(text):
            yield from ((name, line) for line in _lines(block))
        for span in spans_of(text):
            first, _, rest = span.partition(" ")
            if _STARTS.match(span):
                yield name, span
            elif rest and first in main.commands and not rest.startswith("="):
                yield name, f"python -m {SERVICE} {span}"


def _lines(block: str) -> Iterator[str]:
    joined = re.sub(r" *\\\n *", " ", block)
    for line in joined.splitlines():
        command = line.strip().removeprefix("$ ")
        if command and not command.startswith("#"):
            yield command


def check(command: str) -> None:
    """Raise AssertionError where a command names what is not there, or nothing is known of it."""
    if _SQL.match(command):
        tables = re.findall(r"(?:FROM|UPDATE|INTO|TABLE) (?:IF EXISTS )?(\w+)", command)
        assert tables, f"no table in {command}"
        assert set(tables) <= metadata.tables.keys(), f"no such table: {command}"
        return
    for inner in re.findall(r"\$\(([^()]*)\)", command):
        check(inner)
    for part in re.split(r" \|\|? | && ", re.sub(r"\$\([^()]*\)", "WORD", command)):
        words = shlex.split(part, comments=True)
        while words and (given := re.fullmatch(r"([A-Z][A-Z0-9_]*)=.*", words[0])):
            assert _is_setting(given[1]), f"{given[1]} is no setting: {command}"
            del words[0]
        if words:
            assert words[0] in _CHECKS, f"nobody knows how to check {words[0]!r}: {command}"
            _CHECKS[words[0]](words[1:])


def _is_setting(name: str) -> bool:
    plain = name.removeprefix("RESULT_AGGREGATOR_SERVICE_").removesuffix("_FILE").lower()
    return plain in Settings.model_fields or name in {"HYPOTHESIS_PROFILE", "REQUIRE_SERVERS", "PREVIOUS_REVISION"}


def _make(words: list[str]) -> None:
    for word in words:
        if variable := re.fullmatch(r"([A-Z_]+)=.*", word):
            assert f"$({variable[1]})" in MAKEFILE, f"make reads no {word}"
        else:
            assert re.search(rf"^{re.escape(word)}:.*## ", MAKEFILE, re.MULTILINE), f"make has no target {word}"


def _pdm(words: list[str]) -> None:
    assert words[0] == "run", f"pdm {words[0]}"
    if words[1] in SCRIPTS:
        assert not words[2:], f"arguments of a script: {words}"
    else:
        assert words[1] in _CHECKS, f"no script {words[1]} in pyproject.toml"
        _CHECKS[words[1]](words[2:])


def _python(words: list[str]) -> None:
    assert words[0] == "-m", f"python {words}"
    module, arguments = words[1], words[2:]
    if module == SERVICE:
        _click(main, arguments)
    elif module in _CHECKS:
        _CHECKS[module](arguments)
    else:
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        explained = _help(module)
        missing = {option for option in options if not re.search(rf"{option}\b", explained)}
        assert not missing, f"python -m {module} has no {missing}"


def _click(command: click.Command, words: list[str]) -> None:
    """Each subcommand and each option is there. `a|b` stands for either; what is neither is an argument."""
    if isinstance(command, click.Group) and words and not words[0].startswith("-") and words[0] != "...":
        for name in words[0].split("|"):
            assert name in command.commands, f"{command.name} has no command {name}"
            _click(command.commands[name], words[1:])
        return
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in words:
        assert not word.startswith("-") or word.partition("=")[0] in options, f"{command.name} has no option {word}"


@cache
def _help(module: str) -> str:
    """What `python -m module --help` prints, or nothing if it takes no options."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert file.exists(), f"no module {module}"
    if "argparse" not in file.read_text():
        return ""
    return ran(sys.executable, "-m", module, "--help")


def ran(*command: str) -> str:
    """What a command prints that is cheap enough to be run."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def _alembic(words: list[str]) -> None:
    if words == ["heads"]:
        ran(sys.executable, "-m", "alembic", "heads")
    elif words != ["downgrade"]:  # named only, not to be typed so
        CommandLine().parser.parse_args(words)


def _docker(words: list[str]) -> None:
    if words[0] != "compose":
        return _others(f"docker {words[0]}", words[1:])
    words = words[1:]
    while words[0] == "--profile":
        assert words[1] in {p for s in COMPOSE["services"].values() for p in s.get("profiles", ())}, words
        words = words[2:]
    named = f"docker compose {words[0]}"
    if "python" in words:
        inner = words.index("python")
        _python(words[inner + 1 :])
        words = words[:inner]
    _others(named, words[1:])
    services = [word for word in words[1:] if not word.startswith("-") and "=" not in word and not word.isdecimal()]
    assert set(services) <= COMPOSE["services"].keys(), f"no such service: {services}"
    return None


def _others(named: str, words: list[str]) -> None:
    assert named in _OPTIONS, f"nobody knows how to check {named!r}"
    options = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert options <= _OPTIONS[named], f"is that an option of {named}? {options - _OPTIONS[named]}"


@cache
def _routes() -> list[re.Pattern[str]]:
    app = create_app(make_async_container())
    paths = openapi_document(app.url_map, app.view_functions)["paths"]
    rules = [rule.rule for rule in app.url_map.iter_rules()]
    return [re.compile(re.sub(r"[{<][^}>]*[}>]", "[^/]+", path)) for path in (*paths, *rules)]


def _curl(words: list[str]) -> None:
    _others("curl", [word for word in words if re.match(r"-{1,2}[A-Za-z]", word)])
    urls = [word for word in words if word.startswith("http://")]
    assert len(urls) == 1, words
    path = re.sub(r"^http://[^/]+", "", urls[0]).partition("?")[0]
    assert any(route.fullmatch(path) for route in _routes()), f"no route {path}"


def _pytest(words: list[str]) -> None:
    _others("pytest", words)
    for word in words:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), f"no {word}"


def _file(words: list[str]) -> None:
    assert (ROOT / words[0]).exists(), f"no file {words[0]}"


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "make": _make,
    "pdm": _pdm,
    "python": _python,
    "alembic": _alembic,
    "docker": _docker,
    "curl": _curl,
    "pytest": _pytest,
    "cp": _file,
    ".ci/run": lambda words: _file([".ci/run"]),
    "test": lambda words: None,
    "jq": lambda words: None,
}


@pytest.mark.parametrize(("page", "command"), sorted(set(found())))
def test_a_documented_command_is_one(page: str, command: str) -> None:
    check(command)


def test_make_help_lists_every_target_that_is_explained() -> None:
    listed = re.findall(r"^  make (\S+)", ran("make", "help"), re.MULTILINE)
    assert sorted(listed) == sorted(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("words", [[], *([name] for name in sorted(main.commands))], ids=" ".join)
def test_every_command_of_the_service_explains_itself(words: list[str]) -> None:
    assert main.main([*words, "--help"], prog_name="ras", standalone_mode=False) == 0


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "make bench QUICKLY=1",
        "pdm run nothing",
        "python -m demo --twice",
        "python -m nothing",
        f"python -m {SERVICE} outbox lose",
        f"python -m {SERVICE} outbox list --slowly",
        f"python -m {SERVICE} outbox list|lose",
        "alembic upwards head",
        "docker compose run --rm nothing",
        "docker compose up --slowly",
        "docker compose --profile nothing up",
        "curl http://127.0.0.1:4003/nothing",
        "cp deploy/nothing .env",
        "pytest tests/nothing.py",
        "NOTHING=1 make test",
        "UPDATE nothing SET x = 1",
        "format c:",
        'test "$(make nothing)" -eq 0',
    ],
)
def test_a_command_that_is_none_is_found(command: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        check(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_says_whether_it_holds_commands(page: Path) -> None:
    languages = {language for language, _ in fences_of(page.read_text())}
    assert languages <= _COMMANDS | _OTHER, "commands stand in blocks of `sh` or `console`, or are set in"


def test_commands_are_found_on_the_pages_that_have_some() -> None:
    where = {page for page, _ in found()}
    assert {"README.md", "CONTRIBUTING.md", "docs/deployment.md", "docs/operating.md"} <= where
