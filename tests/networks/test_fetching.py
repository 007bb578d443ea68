"""scripts/fetch_weights.py: what is here, how large it is, and getting what is not."""

import dataclasses
import functools
import hashlib
import http.server
import threading

import fetch_weights
import pytest

from suite.networks import catalogue, fetching, libraries, weights

RIGHT = hashlib.sha256(b"right").hexdigest()[:8]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Networks a to d of which a server has files: right, wrong, none; d's copy lies elsewhere.

    The fixture is the list of the paths that the server is asked for. Of a file with `half` in its
    name it sends half the bytes that it announces.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    asked, folder = [], tmp_path / "server"
    folder.mkdir()
    (folder / f"a-{RIGHT}.pth").write_bytes(b"right")
    (folder / f"b-{RIGHT}.pth").write_bytes(b"wrong")
    (folder / "copy.pth").write_bytes(b"the same")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

        def do_GET(self):
            if "half" not in self.path:
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 500)

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def spec(file):
            here, url = weights.weights_folder() / file, f"http://127.0.0.1:{server.server_port}"
            return libraries.NetworkSpec(None, (3, 8, 8), (0,), (1,), here, f"{url}/{file}")

        specs = {name: spec(f"{name}-{RIGHT}.pth") for name in "abcd"}
        specs["d"] = dataclasses.replace(specs["d"], alternative=spec("copy.pth"))
        specs["bare"] = dataclasses.replace(specs["c"], url=None, file=None)
        find = catalogue.find_network
        monkeypatch.setattr(catalogue, "find_network", lambda n: specs.get(n) or find(n))
        yield asked
        server.shutdown()


def kept():
    return sorted(file.name for file in weights.weights_folder().glob("*"))


def test_missing_weights_are_downloaded_once(succeed, asked):
    out, _ = succeed("fetch_weights a d")
    shown = [" ".join(line.split()[:4]) for line in out.splitlines()]
    assert shown == ["a missing 0.0 MB", "d missing 0.0 MB"]
    assert kept() == [f"a-{RIGHT}.pth", "copy.pth"]
    assert (weights.weights_folder() / f"a-{RIGHT}.pth").read_bytes() == b"right"
    before = list(asked)
    out, _ = succeed("fetch_weights a d efficientnet_lite0")
    assert [line.split()[1] for line in out.splitlines()] == ["here"] * 3
    assert "18.8 MB" in out
    assert asked == before


def test_list_says_which_are_there(run, asked, tmp_path):
    status, _, _ = run("fetch_weights c a bare --list {x}/new/list.txt", x=tmp_path)
    assert status == 1
    lines = (tmp_path / "new" / "list.txt").read_text().splitlines()
    assert lines == ["lacking c", "there a", "lacking bare"]
    run("fetch_weights jpeg:75+c bits:3+a a --list {x}/list.txt", x=tmp_path)
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert lines == ["lacking jpeg:75+c", "there bits:3+a", "there a"]


def test_dry_run_asks_for_sizes_and_downloads_nothing(succeed, asked):
    out, _ = succeed("fetch_weights a --dry-run")
    assert f"a-{RIGHT}.pth" in out
    assert len(asked) == 1
    assert kept() == []


def test_network_behind_a_defence_is_fetched(run, asked):
    status, out, _ = run("fetch_weights jpeg:75+bits:3+a --dry-run")
    assert (status, out.split()[0], len(asked)) == (0, "a", 1)
    status, _, err = run("fetch_weights jpg+a --dry-run")
    assert (status, "no defence is called 'jpg'" in err) == (2, True)


@pytest.mark.parametrize("option", ["", "--dry-run"])
def test_all_that_can_t_be_had_is_named_at_once(run, asked, option):
    status, out, err = run(f"fetch_weights c a bare {option}")
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()] == ["c", "a", "bare"]
    assert "the weights of 2 networks can't be had" in err
    for part in (f"c-{RIGHT}.pth as c-{RIGHT}.pth", "bare: it has no weights"):
        assert part in err
    assert str(weights.weights_folder()) in err
    assert kept() == ([] if option else [f"a-{RIGHT}.pth"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"b-{RIGHT}.pth", f"does not begin with {RIGHT}"),
        ("half.safetensors", "500 of 1000 bytes"),
        ("absent.pth", "404"),
    ],
)
def test_wrong_half_and_missing_downloads_leave_no_file(asked, tmp_path, name, reason):
    url = catalogue.find_network("a").url.rpartition("/")[0] + f"/{name}"
    file = tmp_path / "new" / name
    with pytest.raises(OSError, match=reason) as error:
        fetching.download("net", url, file)
    assert list(file.parent.iterdir()) == []
    for part in (url, f"as {name} ", str(file.parent)):
        assert part in str(error.value)


def test_server_that_does_not_answer_is_asked_once(run, asked, monkeypatch):
    tried = []

    def refuse(request, timeout):
        tried.append(request.full_url)
        raise OSError("no network")

    monkeypatch.setattr(fetch_weights.urllib.request, "urlopen", refuse)
    status, out, _ = run("fetch_weights a b c d")
    assert (status, len(tried), out.count("unknown")) == (1, 1, 4)


def test_protocol_stands_for_sources_and_targets_or_targets_alone(run, asked, monkeypatch):
    monkeypatch.setattr(fetch_weights, "remote_size", lambda url, silent: 2_500_000_000)
    for targets, number in (("", 13), ("--targets", 10)):
        _, out, _ = run(f"fetch_weights tpami --dry-run {targets}")
        assert ("inceptionv3 " in out) == (not targets)
        assert "2.50 GB" in out
        assert len(out.splitlines()) == number
