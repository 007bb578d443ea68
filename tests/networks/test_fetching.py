"""scripts/fetch_weights.py: what is here, how large it is, and getting what is not."""

import dataclasses
import functools
import hashlib
import http.server
import threading

import pytest

from suite.networks import catalogue, libraries, weights

RIGHT = hashlib.sha256(b"right").hexdigest()[:8]
WRONG = hashlib.sha256(b"wrong").hexdigest()[:8]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Networks a to d of which a server has files: right, wrong, none; d's copy lies elsewhere."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / f"a-{RIGHT}.pth").write_bytes(b"right")
    (tmp_path / "server" / f"b-{RIGHT}.pth").write_bytes(b"wrong")
    (tmp_path / "server" / "copy.pth").write_bytes(b"the same")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    asked = []
    handler = functools.partial(Handler, directory=tmp_path / "server")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"

        def origin(file):
            here = weights.weights_folder() / file
            return libraries.NetworkSpec(None, (3, 8, 8), (0,), (1,), here, f"{url}/{file}")

        origins = {name: origin(f"{name}-{RIGHT}.pth") for name in "abcd"}
        origins["d"] = dataclasses.replace(origins["d"], alternative=origin("copy.pth"))
        origins["bare"] = dataclasses.replace(origins["c"], url=None, file=None)
        find = catalogue.find_network
        monkeypatch.setattr(catalogue, "find", lambda n: origins[n] if n in origins else find(n))
        yield asked
        server.shutdown()


def kept():
    return sorted(file.name for file in weights.weights_folder().glob("*"))


def test_missing_weights_are_downloaded_once(run, served):
    status, out, _ = run("fetch_weights a d")
    assert status == 0
    assert [line.split()[:4] for line in out.splitlines()] == [
        ["a", "missing", "0.0", "MB"],
        ["d", "missing", "0.0", "MB"],
    ]
    assert kept() == [f"a-{RIGHT}.pth", "copy.pth"]
    before = list(served)
    status, out, _ = run("fetch_weights a d efficientnet_lite0")
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()] == ["here"] * 3
    assert "18.8 MB" in out
    assert served == before


def test_dry_run_asks_for_sizes_and_downloads_nothing(run, served):
    status, out, _ = run("fetch_weights a --dry-run")
    assert status == 0
    assert f"a-{RIGHT}.pth" in out
    assert len(served) == 1
    assert kept() == []


def test_network_behind_a_defence_is_fetched(run, served):
    status, out, _ = run("fetch_weights jpeg:75+bits:3+a --dry-run")
    assert (status, out.split()[0], len(served)) == (0, "a", 1)
    status, _, err = run("fetch_weights jpg+a --dry-run")
    assert (status, "no defence is called 'jpg'" in err) == (2, True)


@pytest.mark.parametrize("option", ["", "--dry-run"])
def test_all_that_can_t_be_had_is_named_at_once(run, served, option):
    status, out, err = run(f"fetch_weights c a bare {option}")
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()] == ["c", "a", "bare"]
    assert "the weights of 2 networks can't be had" in err
    for part in (f"c-{RIGHT}.pth as c-{RIGHT}.pth", "bare: it has no weights"):
        assert part in err
    assert str(weights.weights_folder()) in err
    assert kept() == ([] if option else [f"a-{RIGHT}.pth"])


def test_download_of_another_digest_is_not_kept(run, served):
    status, _, err = run("fetch_weights b")
    assert status == 1
    assert f"does not begin with {RIGHT}" in err
    assert kept() == []


def test_server_that_does_not_answer_is_asked_once(run, served, monkeypatch):
    tried = []

    def refuse(request, timeout):
        tried.append(request.full_url)
        raise OSError("no network")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)
    status, out, _ = run("fetch_weights a b c d")
    assert status == 1
    assert len(tried) == 1
    assert out.count("unknown") == 4


def test_protocol_stands_for_sources_and_targets_or_targets_alone(run, served, monkeypatch):
    monkeypatch.setattr(weights, "size", lambda url: 2_500_000_000)
    _, out, _ = run("fetch_weights tpami --dry-run")
    assert "inceptionv3 " in out
    assert "2.50 GB" in out
    assert len(out.splitlines()) == 13
    _, out, _ = run("fetch_weights tpami --dry-run --targets")
    assert "inceptionv3 " not in out
    assert len(out.splitlines()) == 10
