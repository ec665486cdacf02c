"""Where an engine is looked for, also on machines that make it hard."""

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeldeck._errors import EngineLostError
from modeldeck.service import discovery, launch
from modeldeck.service.discovery import (
    MAX_SOCKET_PATH_BYTES,
    EnginePlace,
    claim_directory,
    find_place,
    find_state_directory,
    place_in,
    runtime_directories,
    state_directories,
)
from modeldeck.service.launch import engine_environment

CACHE = Path("/data/hub")


def candidates(platform: str = "linux", **environ: str) -> list[str]:
    return [path.as_posix() for path in runtime_directories(environ, user="1000", platform=platform)]


def test_the_first_candidate_depends_on_the_user_alone() -> None:
    assert candidates()[0] == candidates(XDG_RUNTIME_DIR="/run/user/1000", TMPDIR="/x", HOME="/h")[0]
    assert candidates()[0] == "/tmp/modeldeck-1000"


def test_candidates_in_order(tmp_path: Path) -> None:
    home = tmp_path.as_posix()
    assert candidates(XDG_RUNTIME_DIR="/run/user/1000", TMPDIR="/x", HOME=home) == [
        "/tmp/modeldeck-1000",
        "/run/user/1000/modeldeck",
        "/x/modeldeck-1000",
        "/var/tmp/modeldeck-1000",
        f"{home}/.cache/modeldeck/run",
    ]
    assert candidates(HOME=f"{home}/missing") == candidates()
    assert candidates() == ["/tmp/modeldeck-1000", "/var/tmp/modeldeck-1000"]
    assert candidates(MODELDECK_RUNTIME_DIR="/mine", HOME=home) == ["/mine"]
    assert candidates("win32", LOCALAPPDATA="C:/u") == ["C:/u/modeldeck/run"]


def test_a_directory_of_ones_own_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the engine, which works in another directory than the notebook."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    place = EnginePlace(directory=Path("/run/md"), name="n")
    for written, meant in {"~/mine": tmp_path / "home" / "mine", "mine": tmp_path / "mine"}.items():
        environ = {"MODELDECK_RUNTIME_DIR": written, "MODELDECK_STATE_DIR": written}
        for seen in (environ, engine_environment(environ)):
            assert candidates(**seen) == [meant.as_posix()]
            assert next(state_directories(seen, place, CACHE, "linux")).parent == meant
        assert engine_environment(environ)["MODELDECK_RUNTIME_DIR"] == str(meant)
        assert engine_environment(environ)["MODELDECK_STATE_DIR"] == str(meant)


def test_the_engine_finds_the_certificates_that_the_notebook_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, folders = os.path.join(f"a{os.pathsep}b", "ca.pem"), os.pathsep.join(["certs", "/etc/ssl"])
    seen = engine_environment({"SSL_CERT_FILE": file, "SSL_CERT_DIR": folders})
    assert seen["SSL_CERT_FILE"] == str(tmp_path / file)
    assert seen["SSL_CERT_DIR"] == os.pathsep.join([str(tmp_path / "certs"), os.path.abspath("/etc/ssl")])


def test_the_list_of_downloads_is_kept_at_home_or_beside_the_socket(tmp_path: Path) -> None:
    home = str(tmp_path)
    place = EnginePlace(directory=Path("/run/md"), name="n")

    def directories(**environ: str) -> list[Path]:
        return list(state_directories(environ, place, CACHE, "linux"))

    at_home, beside = directories(HOME=home)
    assert at_home.parent == tmp_path / ".local/state/modeldeck"
    assert beside == Path("/run/md/n.state")
    assert directories(XDG_STATE_HOME="/s", HOME=home)[0] == Path("/s/modeldeck") / at_home.name
    assert directories(MODELDECK_STATE_DIR="/m", HOME=home)[0] == Path("/m") / at_home.name
    assert directories() == directories(HOME=f"{home}/missing") == [beside]


@pytest.mark.skipif(sys.platform == "win32", reason="names its folders otherwise")
def test_what_is_worth_knowing_is_kept_where_it_can_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {"MODELDECK_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(home)}
    found = find_state_directory(CACHE, environ)
    assert found is not None
    assert found.parent == home / ".local/state/modeldeck"
    assert not list(home.iterdir()), "who only looks leaves nothing"
    (home / ".local").write_text("a file where a folder should be")
    assert find_state_directory(CACHE, environ) == tmp_path / "run" / f"{find_place(CACHE, environ).name}.state"
    (tmp_path / "blocked").touch()
    assert find_state_directory(CACHE, {"MODELDECK_RUNTIME_DIR": str(tmp_path / "blocked")}) is None


def test_cache_directory_and_version_tell_engines_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(cache_dir: Path) -> str:
        place = place_in(Path("/run"), cache_dir, {})
        assert place is not None
        return place.name

    real = tmp_path / "hub"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    assert name(real) == name(tmp_path / "link") == name(tmp_path / "x" / ".." / "hub")
    assert name(real) != name(tmp_path / "other")
    first = name(real)
    monkeypatch.setattr(discovery, "__version__", "9.9.9")
    assert name(real) != first
    assert name(real).startswith("9.9.9-")


@given(length=st.integers(1, 300), version=st.sampled_from(["0.1.0", "12.34.56.dev789+g0123456789abcdef.dirty"]))
def test_no_socket_path_is_too_long(length: int, version: str) -> None:
    directory = Path("/" + "d" * length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discovery, "__version__", version)
        place = place_in(directory, CACHE, {})
    if place is None:
        assert len(os.fsencode(directory)) > MAX_SOCKET_PATH_BYTES - len("/0123456789ab.sock")
    else:
        assert len(os.fsencode(place.socket_path)) <= MAX_SOCKET_PATH_BYTES
        assert place.socket_path.parent == directory


def test_a_long_directory_gets_a_short_name() -> None:
    directory = Path("/" + "d" * (MAX_SOCKET_PATH_BYTES - len("/0123456789ab.sock") - 1))
    place = place_in(directory, CACHE, {})
    assert place is not None
    assert len(os.fsencode(place.socket_path)) == MAX_SOCKET_PATH_BYTES


def test_a_much_too_long_explicit_directory_says_what_to_do(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    with pytest.raises(EngineLostError, match=r"too long for a socket.*Set MODELDECK_RUNTIME_DIR") as caught:
        find_place(CACHE, {"MODELDECK_RUNTIME_DIR": str(long)})
    assert str(tmp_path) not in caught.value.message


def test_an_explicit_directory_that_is_a_file_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(EngineLostError, match=r"socket \(File exists\)\. Set MODELDECK_RUNTIME_DIR") as caught:
        find_place(CACHE, {"MODELDECK_RUNTIME_DIR": str(tmp_path / "run")})
    assert str(tmp_path) not in caught.value.message


def test_an_engine_that_cannot_start_names_its_log_but_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = find_place(CACHE, {"MODELDECK_RUNTIME_DIR": str(tmp_path / "run")})
    program = f"import sys; sys.exit('OSError: [Errno 2] No such file: {tmp_path}/hub/x.json')"
    monkeypatch.setattr(launch, "engine_command", lambda: (sys.executable, "-c", program))
    with pytest.raises(EngineLostError) as caught:
        launch.start_engine(place, CACHE)
    message = caught.value.message
    assert "ended before it was ready: OSError: [Errno 2] No such file: x.json. " in message
    assert place.log_path.name in message
    assert str(tmp_path) not in message


def test_bytes_count_not_characters(tmp_path: Path) -> None:
    assert place_in(Path("/" + "ü" * 60), CACHE, {}) is None


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
class TestClaimDirectory:
    def test_is_made_private(self, tmp_path: Path) -> None:
        claim_directory(tmp_path / "a" / "b")
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700

    def test_an_open_one_is_closed(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        claim_directory(tmp_path)
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        with pytest.raises(PermissionError):
            claim_directory(tmp_path / "link")

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="File exists"):
            claim_directory(tmp_path / "file")

    @pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root to give a directory away")
    def test_somebody_elses_is_refused(self, tmp_path: Path) -> None:
        os.chown(tmp_path, 12345, 12345)
        with pytest.raises(PermissionError):
            claim_directory(tmp_path)


def test_the_next_candidate_is_taken_when_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        discovery,
        "runtime_directories",
        lambda *_, **__: iter([tmp_path / "file", tmp_path / ("d" * 90), tmp_path / "c"]),
    )
    assert find_place(CACHE, {}).directory == tmp_path / "c"
