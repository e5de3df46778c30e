import shutil
import subprocess
import sys

import pytest

from foolbox_carescale.cli import main


def script(shell, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", shell])
    return capsys.readouterr().out


@pytest.mark.skipif(
    shutil.which("bash") is None or sys.platform == "win32", reason="needs bash on POSIX"
)
def test_bash_completes_commands_options_and_files(tmp_path, capsys):
    path = tmp_path / "completion.bash"
    path.write_text(script("bash", capsys), encoding="utf-8")
    (tmp_path / "mine.yaml").touch()
    subprocess.run(["bash", "-n", path], check=True)
    for words, expected in (
        ("carescale ev", "evaluate"),
        ("carescale evaluate --mu", "--multirun"),
        ("carescale evaluate mi", "mine.yaml"),
        ("carescale report mi", "mine.yaml"),
    ):
        count = len(words.split()) - 1
        line = f"COMP_WORDS=({words}); COMP_CWORD={count}; _shtab_carescale; echo ${{COMPREPLY[@]}}"
        answer = subprocess.run(
            ["bash", "-c", f"source {path}; {line}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.split() == [expected]


def test_zsh_and_tcsh_get_scripts_too(capsys):
    assert script("zsh", capsys).startswith("#compdef carescale")
    assert "complete carescale" in script("tcsh", capsys)


def test_without_shtab_the_pip_command_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--print-completion", "bash"]) == 2
    assert capsys.readouterr().err == (
        "carescale: error: this command needs shtab;"
        " run: pip install 'foolbox-carescale[evaluate]'\n"
    )
