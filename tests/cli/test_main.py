"""The command line itself: what every subcommand shares."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from perception.cli.main import main


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["schema", "perception.image/1"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(arguments: list[str], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-c", "from perception.cli.main import main; main()", *arguments],
            stdout=nobody, stderr=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert not done.stderr
    assert done.returncode in (0, 1)  # click has its own opinion of a broken pipe


def test_what_is_not_there_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lanch"])
    assert ended.value.code == 2
    assert "Did you mean 'launch'?" in capsys.readouterr().err
